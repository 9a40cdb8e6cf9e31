"""The organization's template and the account's defaults, as far as they can be tried without an organization."""

import json
import os
import re
import subprocess
import sys

import boto3
import botocore.session
import organization
import package
import parameters
import partition
import pytest
import sam
from botocore.exceptions import ClientError
from botocore.validate import ParamValidator
from cfnlint.api import lint_all
from conftest import KEYS, NO_FILES, elf
from resolver import Resolver
from samcli.yamlhelper import yaml_parse
from template import ROOT

TEMPLATE = ROOT / "infra/organization.yaml"


def resources(**parameters):
    return Resolver(yaml_parse(TEMPLATE.read_text()), parameters).resources()


def test_cfn_lint_finds_nothing():
    assert [it.message for it in lint_all(TEMPLATE.read_text()) if not it.rule.id.startswith("I")] == []


GIVEN = {"TemplateUrl": "https://example.com/template.json", "OrganizationalUnitIds": "r-abcd", "EnforceSince": "2026-11-02", "PublishedRegions": "us-east-1"}


def stack_set():
    return resources(**GIVEN)["StackSet"]["Properties"]


def test_the_stack_set_gives_the_stack_only_parameters_that_it_has():
    given = {it["ParameterKey"]: it["ParameterValue"] for it in stack_set()["Parameters"]}
    assert given == {
        "Mode": "observe",
        "EnforceSince": "2026-11-02",
        "GraceDays": "0",
        "ExemptionTag": "imds-exemption",
        "ExemptionMaxDays": "90",
        "SweepLimit": "0",
        "WatchRefusals": "off",
        "HubBusArn": "",
        "ResultBusArn": "",
        "AlarmEmail": "",
        "SweepAlarmHours": "3",
        "Dashboard": "off",
        "LogRetentionDays": "90",
        "KmsKeyArn": "",
        "PermissionsBoundaryArn": "",
    }
    assert given.keys() <= sam.raw()["Parameters"].keys()


def test_every_parameter_is_grouped():
    raw = yaml_parse(TEMPLATE.read_text())
    groups = raw["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(raw["Parameters"])


def test_a_parameter_allows_the_same_as_that_of_the_stack():
    own, of_the_stack = yaml_parse(TEMPLATE.read_text())["Parameters"], sam.raw()["Parameters"]
    # The organization begins by observing, has the hub's dashboard, and describes in fewer words.
    other_default = {"Mode", "Dashboard"}
    for name in own.keys() & of_the_stack.keys() - organization.OF_EACH_STACK.keys():
        left_out = {"Description"} | ({"Default"} if name in other_default else set())
        one, other = ({key: value for key, value in it.items() if key not in left_out} for it in (own[name], of_the_stack[name]))
        assert one == other, name
    without_default = {name for name, it in own.items() if "Default" not in it}
    assert without_default == {"EnforceSince", "OrganizationalUnitIds", "PublishedRegions", "TemplateUrl"}


def test_a_region_that_is_not_published_is_refused_before_the_stack_set_is_touched():
    template = yaml_parse(TEMPLATE.read_text())
    refused = parameters.refusals(template, {**GIVEN, "Regions": "us-east-1,eu-west-1"})
    assert refused and "must have published" in refused[0]
    assert parameters.refusals(template, {**GIVEN, "Regions": "us-east-1", "PublishedRegions": "eu-west-1,us-east-1"}) == []


def test_results_go_one_way():
    bus = "arn:aws:events:us-east-1:444455556666:event-bus/security"
    [said] = parameters.refusals(yaml_parse(TEMPLATE.read_text()), {**GIVEN, "HubBusArn": bus, "ResultBusArn": bus})
    assert "takes the place of ResultBusArn" in said


def of_region(region, account, **given):
    template = organization.plain_template("0" * 20, {region: "v1"}, package.pack(elf("x86_64")))
    template["Resources"]["Function"]["Properties"].pop("Code")
    resolver = Resolver(template, {"EnforceSince": "all", **given})
    resolver.values |= {"AWS::Region": region, "AWS::AccountId": account, "AWS::Partition": "aws"}
    return resolver.resources()


def test_a_star_stands_for_the_own_region_and_account():
    key = "key/mrk-0123456789abcdef0123456789abcdef"
    stars = {"KmsKeyArn": f"arn:aws:kms:*:444455556666:{key}", "PermissionsBoundaryArn": "arn:aws:iam::*:policy/path/boundary"}
    found = of_region("eu-west-1", "111122223333", **stars)
    arn = f"arn:aws:kms:eu-west-1:444455556666:{key}"
    assert found["LaunchQueue"]["Properties"]["KmsMasterKeyId"] == found["LogGroup"]["Properties"]["KmsKeyId"] == arn
    assert found["FunctionRole"]["Properties"]["PermissionsBoundary"] == "arn:aws:iam::111122223333:policy/path/boundary"
    [policy] = [it for it in found["FunctionRole"]["Properties"]["Policies"] if it["PolicyName"] == "Key"]
    assert policy["PolicyDocument"]["Statement"][0]["Resource"] == arn
    assert of_region("eu-west-1", "111122223333")["LaunchQueue"]["Properties"].get("KmsMasterKeyId") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"KmsKeyArn": "arn:aws:kms:*:444455556666:key/0a1b2c3d-0000-4000-8000-000000000001"},
        {"KmsKeyArn": "arn:aws:kms:eu-west-1:*:key/mrk-1"},
        {"PermissionsBoundaryArn": "arn:aws:iam::111122223333:policy/boundary"},
    ],
)
def test_a_star_stands_where_it_must_and_nowhere_else(wrong):
    assert parameters.refusals(yaml_parse(TEMPLATE.read_text()), {**GIVEN, **wrong})


def test_new_accounts_are_deployed_to_and_failures_are_bounded():
    assert stack_set()["PermissionModel"] == "SERVICE_MANAGED"
    assert stack_set()["AutoDeployment"]["Enabled"] is True
    assert stack_set()["OperationPreferences"] == {
        "RegionConcurrencyType": "PARALLEL",
        "MaxConcurrentPercentage": "25",
        "FailureTolerancePercentage": "10",
    }


ORGANIZATION = "o-a1b2c3d4e5"
REGIONS = ["us-east-1", "eu-central-1"]


class Account:
    """Clients of an account of its own, which has no buckets yet."""

    def __init__(self, aws, account):
        self.session, self.endpoint = boto3.Session(account, "not-a-secret"), aws.endpoint

    def __call__(self, service, region):
        return self.session.client(service, region_name=region, endpoint_url=self.endpoint)


@pytest.mark.parametrize(("architecture", "number"), [("x86_64", "210000000001"), ("arm64", "210000000002")])
def test_what_is_published_has_no_macro_and_its_code_in_every_region(aws, architecture, number):
    account, zipped = Account(aws, number), package.pack(elf(architecture))
    url, old = organization.publish(account, ORGANIZATION, REGIONS, zipped)
    assert (organization.publish(account, ORGANIZATION, REGIONS, zipped), old) == ((url, []), [])
    home, part, name = re.fullmatch(r"https://(imds-enforcer-([0-9a-f]{20})-us-east-1)\.s3\.us-east-1\.amazonaws\.com/(.+)", url).groups()
    template = json.loads(account("s3", "us-east-1").get_object(Bucket=home, Key=name)["Body"].read())
    assert "Transform" not in template
    assert template["Parameters"]["Architecture"]["AllowedValues"] == [architecture]
    assert [it.message for it in lint_all(json.dumps(template)) if not it.rule.id.startswith("I")] == []

    code = template["Resources"]["Function"]["Properties"]["Code"]
    assert code["S3ObjectVersion"] == {"Fn::FindInMap": ["Code", {"Ref": "AWS::Region"}, "Version"]}
    assert template["Mappings"]["Code"].keys() == set(REGIONS)
    for region in REGIONS:
        s3, bucket = account("s3", region), code["S3Bucket"]["Fn::Sub"].replace("${AWS::Region}", region)
        assert bucket == f"imds-enforcer-{part}-{region}"
        version = template["Mappings"]["Code"][region]["Version"]
        s3.put_object(Bucket=bucket, Key=code["S3Key"], Body=b"planted")
        assert s3.get_object(Bucket=bucket, Key=code["S3Key"], VersionId=version)["Body"].read() == zipped
        [read, transport] = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
        assert (read["Effect"], read["Action"]) == ("Allow", ["s3:GetObject", "s3:GetObjectVersion"])
        assert read["Condition"] == {"StringEquals": {"aws:PrincipalOrgID": ORGANIZATION}}
        assert transport["Effect"] == "Deny"
        assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    again = organization.publish(account, ORGANIZATION, REGIONS, zipped)[0]
    assert again != url, "what was planted is replaced by a version of its own"


def test_every_call_of_s3_names_the_owner_of_the_bucket(aws):
    account, calls = Account(aws, "210000000003"), []

    def watched(service, region):
        client = account(service, region)
        client.meta.events.register("before-parameter-build.s3", lambda params, model, **_: calls.append((model.name, params.get("ExpectedBucketOwner"))))
        return client

    organization.publish(watched, ORGANIZATION, REGIONS, package.pack(elf("x86_64")))
    without = {name for name, owner in calls if owner != "210000000003"}
    assert without == {"ListBuckets", "CreateBucket"}


def test_a_bucket_of_an_earlier_build_is_named_to_be_deleted(aws):
    account = Account(aws, "210000000004")
    guessable = "imds-enforcer-210000000004-us-east-1"
    account("s3", "us-east-1").create_bucket(Bucket=guessable)
    assert organization.publish(account, ORGANIZATION, ["us-east-1"], package.pack(elf("x86_64")))[1] == [guessable]


class Taken:
    """A bucket of somebody else."""

    def head_bucket(self, **_):
        raise ClientError({"Error": {"Code": "403"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "HeadBucket")


def test_a_bucket_of_another_account_is_refused():
    with pytest.raises(organization.Refused, match="is not account 111122223333's"):
        organization.make_bucket(Taken(), "imds-enforcer-taken", "us-east-1", "111122223333", ORGANIZATION)


def test_arns_and_addresses_are_of_the_partition():
    assert organization.bucket_policy("b", "cn-north-1", ORGANIZATION)["Statement"][0]["Resource"] == "arn:aws-cn:s3:::b/*"
    assert partition.dns_suffix("cn-north-1") == "amazonaws.com.cn"


def test_the_first_deployment_enforces_since_today_and_later_ones_keep_what_the_stack_has():
    assert organization.settled({}, None, "2026-11-25")["EnforceSince"] == "2026-11-25"
    current = {"parameters": {"EnforceSince": "2026-11-02", "Mode": "enforce", "TemplateUrl": "https://old"}}
    assert organization.settled({"Mode": "observe"}, current, "2026-11-25") == {"EnforceSince": "2026-11-02", "Mode": "observe"}


def commanded(aws, *words):
    command = [sys.executable, ROOT / "infra/deploy/organization.py", *words]
    environment = {**os.environ, **KEYS, **NO_FILES, "AWS_ENDPOINT_URL": aws.endpoint, "MAKEFLAGS": ""}
    return subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Mod=enforce"], "did you mean Mode?"),
        (["OrganizationId=1234"], "such as o-a1b2c3d4e5"),
        (["OrganizationId=o-a1b2c3d4e5", "OrganizationalUnitIds=abc"], "must be ids such as"),
        (["OrganizationId=o-a1b2c3d4e5"], "OrganizationalUnitIds is missing"),
        (["OrganizationId=o-a1b2c3d4e5", "Regions=nowhere"], "must be Regions"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_built(aws, words, said):
    done = commanded(aws, *words)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
    assert "Traceback" not in done.stderr
    assert "Compiling" not in done.stderr


def test_the_account_defaults_are_a_request_that_ec2_knows():
    defaults = json.loads((ROOT / "infra/guardrails/account-defaults.json").read_text())
    shape = botocore.session.get_session().get_service_model("ec2").operation_model("ModifyInstanceMetadataDefaults").input_shape
    assert not ParamValidator().validate(defaults, shape).has_errors()
    assert defaults.keys() <= shape.members.keys()
    for name, value in defaults.items():
        allowed = getattr(shape.members[name], "enum", None)
        assert not allowed or value in allowed, f"{name}: {value} is none of {allowed}"
    assert defaults["HttpTokens"] == "required"
