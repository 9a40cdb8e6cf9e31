"""The organization's template and the account's defaults, as far as they can be tried without an organization."""

import functools
import json
import os
import re
import subprocess
import sys

import botocore.session
import organization
import package
import parameters
import partition
import pytest
import sam
import stack as stacks
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
        "Architecture": "x86_64",
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


@pytest.mark.parametrize(("architecture", "number"), [("x86_64", "210000000001"), ("arm64", "210000000002")])
def test_what_is_published_has_no_macro_and_its_code_in_every_region(aws, architecture, number):
    account, zipped = functools.partial(aws, account=number), package.pack(elf(architecture))
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
    account, calls = functools.partial(aws, account="210000000003"), []

    def watched(service, region):
        client = account(service, region)
        client.meta.events.register("before-parameter-build.s3", lambda params, model, **_: calls.append((model.name, params.get("ExpectedBucketOwner"))))
        return client

    organization.publish(watched, ORGANIZATION, REGIONS, package.pack(elf("x86_64")))
    without = {name for name, owner in calls if owner != "210000000003"}
    assert without == {"ListBuckets", "CreateBucket"}


def test_a_bucket_of_an_earlier_build_is_named_to_be_deleted(aws):
    account = functools.partial(aws, account="210000000004")
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


SECOND = "210000000005"
STAND_IN = {"Type": "AWS::SNS::Topic", "Properties": {"DisplayName": {"Ref": "Mode"}}}


@pytest.fixture
def place(aws, monkeypatch, tmp_path):
    """Whoever deploys the organization, with an account of their own. The emulator has no stack sets: a topic stands for it, and nothing lags behind."""
    variables = {"AWS_ENDPOINT_URL": aws.endpoint, "AWS_ACCESS_KEY_ID": SECOND, "AWS_SECRET_ACCESS_KEY": "not-a-secret", "MAKEFLAGS": ""}
    for name, value in {**variables, **NO_FILES, "AWS_REGION": "us-east-1", "YES": "1"}.items():
        monkeypatch.setenv(name, value)
    template = yaml_parse(TEMPLATE.read_text())
    template["Resources"]["StackSet"] = STAND_IN
    (tmp_path / "organization.yaml").write_text(json.dumps(template))
    monkeypatch.setattr(organization, "TEMPLATE", tmp_path / "organization.yaml")
    monkeypatch.setattr(organization.build, "packages", lambda wanted: {it: package.pack(elf(it)) for it in wanted})
    monkeypatch.setattr(organization, "has_stack_set", lambda *_, **__: False)
    monkeypatch.setattr(organization, "lagging", lambda *_: [])
    cloudformation = aws("cloudformation", account=SECOND)
    yield cloudformation
    cloudformation.delete_stack(StackName="imds-enforcer-organization")


def run_command(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["organization.py", *words])
    organization.main()


FIRST = [f"OrganizationId={ORGANIZATION}", "OrganizationalUnitIds=ou-abcd-11112222"]


def test_the_command_deploys_first_and_updates_then_and_keeps_what_is_not_named(place, monkeypatch, capsys):
    run_command(monkeypatch, *FIRST, "Architecture=arm64")
    shown = capsys.readouterr().out
    assert "stack imds-enforcer-organization in us-east-1: first deployment" in shown and "every stack is as the stack set has it" in shown
    assert "list-stack-instances --stack-set-name imds-enforcer --region us-east-1" in shown
    run_command(monkeypatch, f"OrganizationId={ORGANIZATION}", "Mode=enforce")
    shown = capsys.readouterr().out
    assert "us-east-1: updates the stack of " in shown and "  Mode: observe → enforce\n" in shown and "EnforceSince" not in shown
    [stack] = place.describe_stacks(StackName="imds-enforcer-organization")["Stacks"]
    found = {it["ParameterKey"]: it["ParameterValue"] for it in stack["Parameters"]}
    assert (found["Mode"], found["Architecture"], found["OrganizationalUnitIds"]) == ("enforce", "arm64", "ou-abcd-11112222")


def test_what_somebody_else_changes_while_the_package_is_built_is_not_undone(place, monkeypatch):
    run_command(monkeypatch, *FIRST)
    build = organization.build.packages

    def slowly(wanted):
        monkeypatch.setattr(organization.build, "packages", build)
        run_command(monkeypatch, f"OrganizationId={ORGANIZATION}", "Mode=enforce")
        return build(wanted)

    monkeypatch.setattr(organization.build, "packages", slowly)
    with pytest.raises(SystemExit, match="somebody else changed the stack meanwhile"):
        run_command(monkeypatch, f"OrganizationId={ORGANIZATION}", "SweepLimit=50")
    [stack] = place.describe_stacks(StackName="imds-enforcer-organization")["Stacks"]
    assert {it["ParameterKey"]: it["ParameterValue"] for it in stack["Parameters"]}["Mode"] == "enforce"


def test_what_fails_after_it_was_begun_is_not_called_unchanged(place, monkeypatch):
    def execute(*_):
        raise stacks.Begun("StackSet: too many accounts failed")

    monkeypatch.setattr(stacks.Change, "execute", execute)
    with pytest.raises(SystemExit, match="the deployment was begun; aws cloudformation list-stack-instances") as ended:
        run_command(monkeypatch, *FIRST)
    assert "nothing was changed" not in str(ended.value)


def test_the_architecture_of_the_environment_is_refused_and_of_an_earlier_build_asked_for(place, monkeypatch):
    monkeypatch.setenv("ARCHITECTURE", "arm64")
    with pytest.raises(SystemExit, match="give Architecture=arm64 here"):
        run_command(monkeypatch, *FIRST)
    earlier = organization.settled({}, {"parameters": {"EnforceSince": "all", "Regions": "us-east-1"}}, "2026-11-25")
    assert "give Architecture=x86_64 or Architecture=arm64" in organization.without_architecture(earlier)[0]


def test_china_is_refused_before_anything_is_published():
    [said] = organization.without_trusted_access("cn-north-1")
    assert "run make deploy in each account" in said
    assert organization.without_trusted_access("us-gov-west-1") == []


class InRegion:
    """A stack of the organization in a Region."""

    name, region = "imds-enforcer-organization", "us-east-1"


@pytest.mark.parametrize(
    ("current", "there", "said"),
    [
        (None, {"eu-west-1"}, "is in eu-west-1 already: give Region=eu-west-1"),
        ({"parameters": {}}, {"us-east-1", "eu-west-1"}, "is in eu-west-1 already: give Region=eu-west-1"),
        (None, {"us-east-1"}, "give StackName= of the stack that made it"),
        ({"parameters": {}}, {"us-east-1"}, None),
        (None, set(), None),
    ],
)
def test_a_second_stack_set_is_refused(current, there, said):
    found = organization.of_another_home(InRegion(), current, ["us-east-1", "eu-west-1", "eu-west-1"], there.__contains__)
    assert [said in it for it in found] == ([True] if said else [])
    assert organization.published_regions(["imds-enforcer-" + "0" * 20 + "-eu-west-1", "imds-enforcer-210000000004-us-east-1"]) == ["eu-west-1"]


class Answers:
    """CloudFormation with a stack set, as far as the command asks for it."""

    def __init__(self, error=None, pages=()):
        self.error, self.pages, self.asked = error, pages, None

    def client(self, service, region_name):
        return self

    def describe_stack_set(self, **asked):
        self.asked = asked
        if self.error:
            raise ClientError({"Error": {"Code": self.error, "Message": "no"}}, "DescribeStackSet")
        return {"StackSet": {"Status": "ACTIVE"}}

    def get_paginator(self, operation):
        assert operation == "list_stack_instances"
        return self

    def paginate(self, **asked):
        self.asked = asked
        return self.pages


def test_a_stack_set_is_looked_for_as_whoever_administers_it():
    there, gone = Answers(), Answers("StackSetNotFoundException")
    assert organization.has_stack_set(there, "eu-west-1", "DELEGATED_ADMIN") and not organization.has_stack_set(gone, "eu-west-1", "SELF")
    assert there.asked == {"StackSetName": "imds-enforcer", "CallAs": "DELEGATED_ADMIN"}
    with pytest.raises(ClientError):
        organization.has_stack_set(Answers("AccessDenied"), "eu-west-1", "SELF")


def instance(account, status, detailed, **more):
    return {"Account": account, "Region": "eu-west-1", "Status": status, "StackInstanceStatus": {"DetailedStatus": detailed}, **more}


def test_accounts_that_the_stack_set_tolerated_end_the_command_with_their_reasons(capsys):
    failed = instance("111122223333", "OUTDATED", "FAILED", StatusReason="Account should have 'AWSCloudFormationStackSetExecutionRole'")
    closed = instance("777788889999", "OUTDATED", "SKIPPED_SUSPENDED_ACCOUNT")
    pages = [{"Summaries": [instance("444455556666", "CURRENT", "SUCCEEDED"), failed]}, {"Summaries": [closed]}]
    stack = stacks.Stack(Answers(pages=pages), "us-east-1", "imds-enforcer-organization")
    values = {"Administration": "DELEGATED_ADMIN", "OrganizationalUnitIds": "ou-abcd-11112222"}
    with pytest.raises(SystemExit) as ended:
        organization.conclude(stack, values)
    assert capsys.readouterr().out.splitlines() == ["111122223333  eu-west-1  FAILED Account should have 'AWSCloudFormationStackSetExecutionRole'"]
    named = "--stack-set-name imds-enforcer --region us-east-1 --call-as DELEGATED_ADMIN"
    assert str(ended.value).endswith(f"update-stack-instances {named} --deployment-targets OrganizationalUnitIds=ou-abcd-11112222 --regions eu-west-1 --operation-preferences FailureTolerancePercentage=100,MaxConcurrentPercentage=100 (one that is INOPERABLE needs delete-stack-instances with --retain-stacks first)")
    assert stack.client.asked["CallAs"] == "DELEGATED_ADMIN"


def test_what_the_stack_set_is_asked_is_a_request_that_cloudformation_knows():
    model = botocore.session.get_session().get_service_model("cloudformation")
    asked = {"StackSetName": "imds-enforcer", "CallAs": "SELF"}
    for operation in ("DescribeStackSet", "ListStackInstances"):
        shape = model.operation_model(operation).input_shape
        assert not ParamValidator().validate(asked, shape).has_errors() and asked.keys() <= shape.members.keys()


def test_an_account_that_leaves_loses_its_stack():
    assert stack_set()["AutoDeployment"]["RetainStacksOnAccountRemoval"] is False


def test_the_key_is_judged_for_the_members_too(monkeypatch):
    judged = []

    def refusals(session, region, account, key_arn, tell, organization):
        judged.append((region, account, organization))
        return [] if account == "210000000005" else ["no statement allows it"]

    monkeypatch.setattr(organization.keys, "refusals", refusals)
    target = type("Target", (), {"session": None, "account": "210000000005"})()
    [said] = organization.key_refusals(target, ["us-east-1"], "arn", ORGANIZATION)
    assert said == "us-east-1, in another account of the organization: no statement allows it"
    assert judged == [("us-east-1", "210000000005", ORGANIZATION), ("us-east-1", organization.MEMBER, ORGANIZATION)]
