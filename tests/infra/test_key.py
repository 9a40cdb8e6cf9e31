"""What is said of a key before it is used: of a right one nothing, of each wrong one what is wrong."""

import copy
import json

import key as keys
import pytest
from resolver import Resolver
from samcli.yamlhelper import yaml_parse
from template import ROOT

REGION, ACCOUNT = "us-east-1", "111122223333"
ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/0a1b2c3d-0000-4000-8000-000000000001"
OF_AWS = {"AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": ACCOUNT, "AWS::URLSuffix": "amazonaws.com"}


def policy(**parameters):
    resolver = Resolver(yaml_parse((ROOT / "infra/key.yaml").read_text()), parameters)
    resolver.values |= OF_AWS
    return resolver.resources()["Key"]["Properties"]["KeyPolicy"]


def of(document, sid):
    return next(it for it in document["Statement"] if it["Sid"] == sid)


def changed(change):
    document = copy.deepcopy(policy())
    change(document)
    return document


@pytest.mark.parametrize("parameters", [{}, {"OrganizationId": "o-a1b2c3d4e5"}], ids=["account", "organization"])
def test_nothing_is_wrong_with_the_key_that_the_template_makes(parameters):
    assert keys.judge(policy(**parameters), ARN, REGION, ACCOUNT, "o-a1b2c3d4e5") == ([], [])


WRONG = {
    "no statement for events": (lambda it: it["Statement"].remove(of(it, "Events")), "events.amazonaws.com"),
    "no statement for alarms": (lambda it: it["Statement"].remove(of(it, "Alarms")), "cloudwatch.amazonaws.com"),
    "no statement for the log": (lambda it: it["Statement"].remove(of(it, "Log")), f"logs.{REGION}.amazonaws.com"),
    "no way for the account's roles": (lambda it: it["Statement"].remove(of(it, "AccountByItsOwnPolicies")), "the function's role"),
    "log of another Region": (lambda it: of(it, "Log").update(Principal={"Service": "logs.eu-west-1.amazonaws.com"}), f"logs.{REGION}"),
    "log of another account": (
        lambda it: of(it, "Log").update(Condition={"ArnLike": {"kms:EncryptionContext:aws:logs:arn": "arn:aws:logs:*:444455556666:log-group:*"}}),
        "aws:logs:arn",
    ),
    "events without Decrypt": (lambda it: of(it, "Events").update(Action="kms:GenerateDataKey*"), "kms:Decrypt"),
    "events limited to an account": (
        lambda it: of(it, "Events").update(Condition={"StringEquals": {"aws:SourceAccount": ACCOUNT}}),
        "aws:SourceAccount, which is not filled there",
    ),
    "alarms of another account": (lambda it: of(it, "Alarms").update(Condition={"StringEquals": {"aws:SourceAccount": "444455556666"}}), "another value"),
    "everybody outside the organization denied": (
        lambda it: it["Statement"].append(
            {"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*", "Condition": {"StringNotEquals": {"aws:PrincipalOrgID": "o-a1b2c3d4e5"}}}
        ),
        "Deny",
    ),
}


@pytest.mark.parametrize(("change", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_policy_is_refused_with_what_is_wrong(change, said):
    refused, _ = keys.judge(changed(change), ARN, REGION, ACCOUNT)
    assert refused and any(said in it for it in refused), refused


MEMBER = "777788889999"


def test_the_key_of_an_organization_serves_the_members_and_one_of_an_account_does_not():
    organization = "o-a1b2c3d4e5"
    assert keys.judge(policy(OrganizationId=organization), ARN, REGION, MEMBER, organization) == ([], [])
    refused, _ = keys.judge(policy(), ARN, REGION, MEMBER, organization)
    assert any("the log group can't be created" in it for it in refused) and any("can't read its queue" in it for it in refused)


@pytest.mark.parametrize("parameters", [{}, {"OrganizationId": "o-a1b2c3d4e5"}], ids=["account", "organization"])
def test_the_key_that_the_template_makes_serves_a_hub_of_its_own_account_alone(parameters):
    def said(account):
        return keys.judge(policy(**parameters), ARN, REGION, account, "o-a1b2c3d4e5", keys.uses_of_the_hub)

    assert said(ACCOUNT) == ([], [])
    assert any("kms:CreateGrant" in it and "the hub's table" in it for it in said(MEMBER)[0])


def test_what_spares_services_denies_none():
    deny = {"StringNotEquals": {"aws:PrincipalOrgID": "o-a1b2c3d4e5"}, "BoolIfExists": {"aws:PrincipalIsAWSService": "false"}}
    document = changed(lambda it: it["Statement"].append({"Effect": "Deny", "Principal": "*", "Action": "kms:*", "Resource": "*", "Condition": deny}))
    assert keys.judge(document, ARN, REGION, ACCOUNT, "o-a1b2c3d4e5") == ([], [])


def test_a_condition_that_is_not_understood_is_told_and_refuses_nothing():
    document = changed(lambda it: of(it, "Events").update(Condition={"StringEquals": {"kms:EncryptionContext:aws:sqs:arn": "queue"}}))
    refused, doubts = keys.judge(document, ARN, REGION, ACCOUNT)
    assert refused == []
    assert any("aws:sqs:arn" in it for it in doubts)


@pytest.mark.parametrize(
    "principal",
    [f"arn:aws:iam::{ACCOUNT}:role/imds-enforcer-FunctionRole-0A1B", f"arn:aws:sts::{ACCOUNT}:assumed-role/imds-enforcer-FunctionRole-0A1B/it"],
    ids=["role", "session"],
)
@pytest.mark.parametrize("effect", ["Allow", "Deny"])
def test_a_policy_that_names_roles_of_the_account_is_told_and_not_refused(principal, effect):
    def change(document):
        own = of(document, "AccountByItsOwnPolicies")
        document["Statement"].append({**own, "Sid": "Role", "Effect": effect, "Action": ["kms:Decrypt", "kms:GenerateDataKey"], "Principal": {"AWS": principal}})
        if effect == "Allow":
            document["Statement"].remove(own)

    refused, doubts = keys.judge(changed(change), ARN, REGION, ACCOUNT)
    assert refused == []
    assert doubts and all("whether it names the function's role" in it for it in doubts), doubts


def test_a_role_of_another_account_is_not_the_function_s():
    other = {"AWS": "arn:aws:iam::444455556666:role/imds-enforcer-FunctionRole-0A1B"}
    refused, doubts = keys.judge(changed(lambda it: of(it, "AccountByItsOwnPolicies").update(Principal=other)), ARN, REGION, ACCOUNT)
    assert refused and doubts == []


class Session:
    def __init__(self, aws):
        self.aws = aws

    def client(self, service, region_name=REGION):
        return self.aws(service, region_name)


def made(aws, **options):
    return aws("kms").create_key(**options)["KeyMetadata"]["Arn"]


def said_of(aws, arn, region=REGION):
    return keys.refusals(Session(aws), region, aws("sts").get_caller_identity()["Account"], arn)


def test_a_key_is_looked_at_where_it_is(aws):
    account = aws("sts").get_caller_identity()["Account"]
    right = json.dumps(policy()).replace(ACCOUNT, account)
    assert said_of(aws, made(aws, Policy=right)) == []
    assert any("events.amazonaws.com" in it for it in said_of(aws, made(aws)))
    assert "NotFoundException" in said_of(aws, f"arn:aws:kms:{REGION}:{account}:key/0a1b2c3d-0000-4000-8000-00000000dead")[0]
    disabled, waiting = made(aws, Policy=right), made(aws, Policy=right)
    aws("kms").disable_key(KeyId=disabled)
    aws("kms").schedule_key_deletion(KeyId=waiting)
    assert "Disabled" in said_of(aws, disabled)[0]
    assert "PendingDeletion" in said_of(aws, waiting)[0]
    assert "SIGN_VERIFY" in said_of(aws, made(aws, KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY"))[0]


def test_a_star_stands_for_the_region():
    assert keys.resolved(f"arn:aws:kms:*:{ACCOUNT}:key/mrk-1", "eu-west-1") == f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/mrk-1"


def test_the_template_deploys_a_key_that_is_right(aws):
    cloudformation = aws("cloudformation")
    cloudformation.create_stack(StackName="imds-enforcer-key", TemplateBody=(ROOT / "infra/key.yaml").read_text())
    cloudformation.get_waiter("stack_create_complete").wait(StackName="imds-enforcer-key", WaiterConfig={"Delay": 1})
    [stack] = cloudformation.describe_stacks(StackName="imds-enforcer-key")["Stacks"]
    [output] = stack["Outputs"]
    assert (output["OutputKey"], said_of(aws, output["OutputValue"])) == ("KeyArn", [])
