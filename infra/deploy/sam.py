"""The SAM template: as it is written, as it goes with a package, and as plain CloudFormation.

    sam.py ZIP TEMPLATE PLAIN

writes the template that goes with a zip, for the same folder, and plain CloudFormation for those who deploy without SAM.
"""

import copy
import json
import pathlib
import sys

import boto3
import package
from samcli.yamlhelper import yaml_parse
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

TEMPLATE = pathlib.Path(__file__).parents[1] / "template.yaml"


# The translator asks for a Region; nothing of what it makes depends on which.
ANY_REGION = "us-east-1"


def raw():
    """The template as it is written."""
    return yaml_parse(TEMPLATE.read_text())


def of_package(zipped):
    """The template that CloudFormation takes for the architecture of a zip alone."""
    template, architecture = raw(), package.architecture(zipped)
    [other] = set(package.MACHINES.values()) - {architecture}
    template["Parameters"]["Architecture"] |= {
        "AllowedValues": [architecture],
        "Default": architecture,
        "ConstraintDescription": f"must be {architecture}, which this package was built for: answer {architecture}, or build with ARCHITECTURE={other}",
    }
    return template


def transformed(template=None, code_uri="s3://amzn-s3-demo-bucket/function.zip"):
    """The template after the transform, with the function's code at `code_uri`."""
    template = copy.deepcopy(template or raw())
    template["Resources"]["Function"]["Properties"]["CodeUri"] = code_uri
    translator = Translator({}, Parser(), boto_session=boto3.Session(region_name=ANY_REGION))
    plain = translator.translate(template, {})
    plain.pop("Transform", None)
    return plain


# Where the zip is, for whoever deploys without SAM.
PLACE = {
    "CodeBucket": {"Description": "The bucket of the zip, in the stack's Region.", "AllowedPattern": "^[a-z0-9.-]{3,63}$"},
    "CodeKey": {"Description": "The key of the zip in its bucket.", "MinLength": 1, "MaxLength": 1024},
    "CodeVersion": {"Description": "The version of the zip; empty for the latest, or a bucket without versions.", "MaxLength": 1024, "Default": ""},
}


def plain(zipped):
    """The template of a package without the SAM transform, with the zip's place as parameters."""
    template = transformed(of_package(zipped))
    template["Parameters"] |= {name: {"Type": "String", **it} for name, it in PLACE.items()}
    template["Conditions"]["HasCodeVersion"] = {"Fn::Not": [{"Fn::Equals": [{"Ref": "CodeVersion"}, ""]}]}
    template["Resources"]["Function"]["Properties"]["Code"] = {
        "S3Bucket": {"Ref": "CodeBucket"},
        "S3Key": {"Ref": "CodeKey"},
        "S3ObjectVersion": {"Fn::If": ["HasCodeVersion", {"Ref": "CodeVersion"}, {"Ref": "AWS::NoValue"}]},
    }
    return template


def main(zip_name, template_name, plain_name):
    zipped = pathlib.Path(zip_name).read_bytes()
    for name, template in ((template_name, of_package(zipped)), (plain_name, plain(zipped))):
        package.put(pathlib.Path(name), json.dumps(template, indent=2).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
