"""The SAM template, and what the SAM transform makes of it: plain CloudFormation."""

import copy
import pathlib

from samcli.yamlhelper import yaml_parse
from samtranslator.translator.transform import transform

TEMPLATE = pathlib.Path(__file__).parent / "template.yaml"


class NoManagedPolicies:
    """The translator asks for AWS's managed policies only where a template names one."""

    def load(self):
        return {}


def raw():
    """The template as it is written."""
    return yaml_parse(TEMPLATE.read_text())


def transformed(template=None, code_uri="s3://amzn-s3-demo-bucket/function.zip"):
    """The template after the transform, with the function's code at `code_uri`."""
    template = copy.deepcopy(template or raw())
    template["Resources"]["Function"]["Properties"]["CodeUri"] = code_uri
    plain = transform(template, {}, NoManagedPolicies())
    plain.pop("Transform", None)
    return plain
