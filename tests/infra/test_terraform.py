"""The Terraform configuration, read by a parser of HCL, and the template that it deploys, in the emulator.

No registry has Terraform itself: what Terraform makes of the configuration is not tried here.
"""

import json
import re

import hcl2
import package
import sam
from cfnlint.api import lint_all
from conftest import elf
from template import ROOT

MAIN = ROOT / "infra/terraform/main.tf"
ZIPPED = package.pack(elf("x86_64"))


def resource(kind, name):
    def plain(text):
        return text.strip('"')

    for it in hcl2.loads(MAIN.read_text())["resource"]:
        for found, named in it.items():
            named = {plain(key): value for key, value in named.items()}
            if plain(found) == kind and name in named:
                return named[name]
    raise AssertionError(f"no {kind} {name}")


def test_every_parameter_that_it_fills_in_is_one_of_the_template():
    filled = set(re.findall(r"\b(Code\w+)\s*=", MAIN.read_text()))
    parameters = sam.plain(ZIPPED)["Parameters"]
    assert filled == sam.PLACE.keys()
    assert filled <= parameters.keys()
    assert {name for name, it in parameters.items() if "Default" not in it} == {"CodeBucket", "CodeKey", "EnforceSince"}


def test_it_uploads_what_make_package_writes_and_deploys_it_by_url():
    stack = resource("aws_cloudformation_stack", "imds_enforcer")
    assert "CAPABILITY_IAM" in str(stack["capabilities"])
    assert "aws_s3_object.template.key" in str(stack["template_url"])
    makefile = (ROOT / "Makefile").read_text()
    for name, file in (("code", "imds-enforcer.zip"), ("template", "cloudformation.json")):
        assert file in str(resource("aws_s3_object", name)["source"])
        assert f"target/{file}" in makefile


def test_a_failed_update_goes_back_to_objects_that_are_still_there():
    for name in ("code", "template"):
        assert "'create_before_destroy': True" in str(resource("aws_s3_object", name)["lifecycle"])


def test_the_plain_template_has_no_finding_and_no_macro():
    template = sam.plain(ZIPPED)
    assert "Transform" not in template
    assert [it.message for it in lint_all(json.dumps(template)) if not it.rule.id.startswith("I")] == []


def test_the_plain_template_deploys_from_a_bucket_with_the_version_that_is_named(aws):
    s3, cloudformation = aws("s3"), aws("cloudformation")
    s3.create_bucket(Bucket="artifacts-of-terraform")
    s3.put_bucket_versioning(Bucket="artifacts-of-terraform", VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket="artifacts-of-terraform", Key="code.zip", Body=ZIPPED)["VersionId"]
    s3.put_object(Bucket="artifacts-of-terraform", Key="code.zip", Body=b"planted")
    values = {"CodeBucket": "artifacts-of-terraform", "CodeKey": "code.zip", "CodeVersion": version, "EnforceSince": "all", "Mode": "observe"}
    given = [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]
    # The emulator takes longer bodies by URL alone, as CloudFormation does.
    s3.put_object(Bucket="artifacts-of-terraform", Key="cloudformation.json", Body=json.dumps(sam.plain(ZIPPED)).encode())
    url = f"{aws.endpoint}/artifacts-of-terraform/cloudformation.json"
    cloudformation.create_stack(StackName="of-terraform", TemplateURL=url, Parameters=given, Capabilities=["CAPABILITY_IAM"])
    cloudformation.get_waiter("stack_create_complete").wait(StackName="of-terraform", WaiterConfig={"Delay": 1})
    [stack] = cloudformation.describe_stacks(StackName="of-terraform")["Stacks"]
    name = next(it["OutputValue"] for it in stack["Outputs"] if it["OutputKey"] == "FunctionName")
    assert aws("lambda").get_function_configuration(FunctionName=name)["CodeSize"] == len(ZIPPED)
