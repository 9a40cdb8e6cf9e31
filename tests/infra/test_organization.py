"""The organization's template and the account's defaults, as far as they can be tried without an organization."""

import json
import re

import botocore.session
import organization
import package
import pytest
import sam
from botocore.validate import ParamValidator
from cfnlint.api import lint_all
from conftest import elf
from resolver import Resolver
from samcli.yamlhelper import yaml_parse
from template import ROOT

TEMPLATE = ROOT / "infra/organization.yaml"


def resources(**parameters):
    return Resolver(yaml_parse(TEMPLATE.read_text()), parameters).resources()


def test_cfn_lint_finds_nothing():
    assert [it.message for it in lint_all(TEMPLATE.read_text()) if not it.rule.id.startswith("I")] == []


def stack_set():
    given = {"TemplateUrl": "https://example.com/template.json", "OrganizationalUnitIds": "r-abcd", "EnforceSince": "2026-11-02"}
    return resources(**given)["StackSet"]["Properties"]


def test_the_stack_set_gives_the_stack_only_parameters_that_it_has():
    given = {it["ParameterKey"]: it["ParameterValue"] for it in stack_set()["Parameters"]}
    assert given == {
        "Mode": "observe",
        "EnforceSince": "2026-11-02",
        "GraceDays": "0",
        "ExemptionTag": "imds-exemption",
        "SweepLimit": "0",
        "WatchRefusals": "off",
        "ResultBusArn": "",
        "AlarmEmail": "",
    }
    assert given.keys() <= sam.raw()["Parameters"].keys()


def test_a_parameter_allows_the_same_as_that_of_the_stack():
    own, of_the_stack = yaml_parse(TEMPLATE.read_text())["Parameters"], sam.raw()["Parameters"]
    # The organization begins by observing, and describes in fewer words.
    different = {"Description"}
    for name in own.keys() & of_the_stack.keys():
        left_out = different | ({"Default"} if name == "Mode" else set())
        one, other = ({key: value for key, value in it.items() if key not in left_out} for it in (own[name], of_the_stack[name]))
        assert one == other, name
    without_default = {name for name, it in own.items() if "Default" not in it}
    assert without_default == {"EnforceSince", "OrganizationalUnitIds", "TemplateUrl"}


def test_new_accounts_are_deployed_to_and_failures_are_bounded():
    assert stack_set()["PermissionModel"] == "SERVICE_MANAGED"
    assert stack_set()["AutoDeployment"]["Enabled"] is True
    assert stack_set()["OperationPreferences"] == {
        "RegionConcurrencyType": "PARALLEL",
        "MaxConcurrentPercentage": "25",
        "FailureTolerancePercentage": "10",
    }


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_what_is_published_has_no_macro_and_its_code_in_every_region(aws, architecture):
    regions, zipped = ["us-east-1", "eu-central-1"], package.pack(elf(architecture))
    url = organization.publish(aws, "o-a1b2c3d4e5", regions, zipped)
    again = organization.publish(aws, "o-a1b2c3d4e5", regions, zipped)
    assert url == again
    account = aws("sts").get_caller_identity()["Account"]
    home, name = re.fullmatch(r"https://(.+)\.s3\.us-east-1\.amazonaws\.com/(.+)", url).groups()
    template = json.loads(aws("s3").get_object(Bucket=home, Key=name)["Body"].read())
    assert "Transform" not in template
    assert template["Parameters"]["Architecture"]["Default"] == architecture
    assert template["Parameters"]["Architecture"]["AllowedValues"] == [architecture]
    assert [it.message for it in lint_all(json.dumps(template)) if not it.rule.id.startswith("I")] == []

    code = template["Resources"]["Function"]["Properties"]["Code"]
    for region in regions:
        s3, bucket = aws("s3", region), code["S3Bucket"]["Fn::Sub"].replace("${AWS::Region}", region)
        assert bucket == f"imds-enforcer-{account}-{region}"
        assert s3.get_object(Bucket=bucket, Key=code["S3Key"])["Body"].read() == zipped
        [read, transport] = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
        assert (read["Effect"], read["Action"]) == ("Allow", "s3:GetObject")
        assert read["Condition"] == {"StringEquals": {"aws:PrincipalOrgID": "o-a1b2c3d4e5"}}
        assert transport["Effect"] == "Deny"
        assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())


def test_the_account_defaults_are_a_request_that_ec2_knows():
    defaults = json.loads((ROOT / "infra/guardrails/account-defaults.json").read_text())
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("ModifyInstanceMetadataDefaults").input_shape
    assert not ParamValidator().validate(defaults, shape).has_errors()
    assert defaults.keys() <= shape.members.keys()
    for name, value in defaults.items():
        allowed = getattr(shape.members[name], "enum", None)
        assert not allowed or value in allowed, f"{name}: {value} is none of {allowed}"
    assert defaults["HttpTokens"] == "required"
