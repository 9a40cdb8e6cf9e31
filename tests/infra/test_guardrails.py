"""make guardrails, as far as it can be tried without an organization.

The emulator has Organizations, but no AWS::Organizations::Policy in CloudFormation: the rendered policies
are created there by its API, which reads them as JSON and limits no size. What a policy denies is
evaluated in infra/guardrails/guardrails.test.ts.
"""

import json
import os
import re
import subprocess
import sys
import uuid

import boto3
import guardrails
import pytest
from cfnlint.api import lint_all
from parameters import given, refusals
from template import ROOT


def test_cfn_lint_finds_nothing():
    assert [it.message for it in lint_all(guardrails.TEMPLATE.read_text()) if not it.rule.id.startswith("I")] == []


def test_the_policies_are_attached_one_after_the_other():
    """Each waits for the one before, also where it is not made: cfn-lint refuses DependsOn for that."""
    resources = guardrails.template()["Resources"]
    assert resources["TokensAtLaunch"]["DependsOn"] == "KeepEnforcer"
    assert resources["MetadataDefaults"]["DependsOn"] == "KeepEnforcer"
    after = {"Fn::If": ["HasTokensPolicy", {"Ref": "TokensAtLaunch"}, "nothing"]}
    assert resources["MetadataDefaults"]["Metadata"] == {"After": after}
    assert resources["TokensAtLaunch"]["Condition"] == "HasTokensPolicy"


def make(*words, answer="", **variables):
    """The command as make runs it, without a terminal: status and what it prints."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment = {**kept, "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull, **variables}
    command = [sys.executable, ROOT / "infra/deploy/guardrails.py", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, input=answer, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def in_the_emulator(aws, account):
    return {"AWS_ENDPOINT_URL": aws.endpoint, "AWS_ACCESS_KEY_ID": account, "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_REGION": "us-east-1"}


def test_without_credentials_it_shows_the_policies_and_says_what_is_missing():
    status, shown, missing = make("Region=us-gov-west-1", "ExemptionTag=no-imdsv2")
    assert status == 1
    for policy in ("keep (SERVICE_CONTROL_POLICY), ", "defaults (DECLARATIVE_POLICY_EC2), "):
        assert f"imds-enforcer-guardrails-{policy}" in shown
    assert '"no-imdsv2"' in shown
    assert "arn:aws-us-gov:ec2:*:*:instance/*" in shown
    assert "only shown, not deployed: no credentials" in missing


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("ExemptingRole=x", "did you mean ExemptingRoles?"),
        ("ExemptingRoles=*", "do not begin with a wildcard"),
        ("DeployingRoles=arn:aws:iam::111122223333:role/x", "names of roles without arn:"),
        ("TargetIds=production", "must be ids such as r-abcd"),
        ("HighestHopLimit=65", "from 0 to 64"),
        ("RoleDelivery=yes", "must be one of on, off"),
        ("ExemptionTag=aws:x", "does not begin with aws:"),
        ("DeployingRoles", "write NAME=VALUE"),
    ],
)
def test_what_the_template_would_refuse_is_refused_before_anything_is_shown(word, said):
    status, shown, refused = make(word)
    assert status == 1
    assert shown == ""
    assert said in refused


def test_every_command_of_the_manual_is_one_that_the_template_allows():
    text = (ROOT / "infra/guardrails/README.md").read_text()
    commands = re.findall(r"\bmake guardrails ([^`\n]+)", text)
    assert len(commands) >= 6
    for words in commands:
        values = {name: value for name, value in given(words.split()).items() if name != "Region"}
        assert refusals(guardrails.template(), values) == [], words


def test_a_policy_that_organizations_would_refuse_for_its_size_is_refused():
    roles = ",".join(f"a-team-with-a-long-name-{number}/its-deployer" for number in range(40))
    status, shown, refused = make(f"DeployingRoles={roles}")
    assert status == 1
    assert "imds-enforcer-guardrails-keep" in shown
    assert "and Organizations takes 5120: name fewer roles" in refused


def test_lists_allow_several_names_and_none():
    template = guardrails.template()
    for value in ("", "one", "one,two", "aws-reserved/sso.amazonaws.com/*AWSReservedSSO_Security_*"):
        assert refusals(template, {"ExemptingRoles": value, "DeployingRoles": value, "LaunchingRoles": value}) == []
    for value in ("", "r-abcd", "ou-abcd-11112222,111122223333"):
        assert refusals(template, {"TargetIds": value}) == []


def test_a_policy_type_that_is_not_enabled_is_named_with_the_command_that_enables_it(aws):
    account = "555500000001"
    status, _, refused = make("TargetIds=r-abcd", **in_the_emulator(aws, account))
    assert status == 1
    assert "DECLARATIVE_POLICY_EC2 is not enabled in this organization: run aws organizations enable-policy-type --root-id r-" in refused


def test_it_says_where_it_goes_and_as_whom_and_what_cloudformation_refuses(aws):
    """The emulator's CloudFormation refuses the type of resource: what a real one says is shown alike."""
    account = "555500000002"
    status, shown, refused = make("DeclarativePolicy=off", **in_the_emulator(aws, account))
    assert status == 1
    assert f"account {account}, Region us-east-1, as arn:aws:" in shown
    assert "attached to no target" in shown
    assert "AWS::Organizations::Policy" in refused


class ChangeOfNobody:
    """Stands for a stack and its change set, which the emulator does not make, and records what is asked of them."""

    name, region = "imds-enforcer-guardrails", "us-east-1"

    def __init__(self):
        self.asked, self.stack = [], self

    def change(self, template, values):
        self.asked.append(values)
        return self

    def rows(self):
        return [("Add", "KeepEnforcer", "AWS::Organizations::Policy", "")]

    def execute(self):
        self.asked.append("execute")

    def discard(self):
        self.asked.append("discard")


def test_it_deploys_after_a_yes(monkeypatch, capsys):
    monkeypatch.setenv("YES", "1")
    stack = ChangeOfNobody()
    guardrails.deploy(stack, {"RoleDelivery": "on"})
    assert stack.asked == [{"RoleDelivery": "on"}, "execute"]
    assert "  Add      KeepEnforcer" in capsys.readouterr().out


def test_without_a_yes_nothing_stays(monkeypatch):
    monkeypatch.delenv("YES", raising=False)
    monkeypatch.setattr("sys.stdin", open(os.devnull))
    stack = ChangeOfNobody()
    with pytest.raises(SystemExit, match="nothing was changed"):
        guardrails.deploy(stack, {})
    assert stack.asked == [{}, "discard"]


@pytest.mark.parametrize("values", [{}, {"HighestHopLimit": 2, "TokensPolicy": "on", "RoleDelivery": "on", "ExemptionTag": ""}], ids=["default", "everything on"])
def test_organizations_of_the_emulator_takes_the_policies(aws, values):
    organizations = aws("organizations")
    name = f"guardrails-{len(values)}"
    for policy in guardrails.policies(values, stack=name).values():
        made = organizations.create_policy(Name=policy.name, Type=policy.type, Description="rendered", Content=policy.text)
        kept = organizations.describe_policy(PolicyId=made["Policy"]["PolicySummary"]["Id"])["Policy"]
        assert json.loads(kept["Content"]) == policy.document
        assert policy.size <= guardrails.LIMITS[policy.type]


def test_what_comes_next_begins_with_the_mildest():
    """From nothing on, what is printed leads through all steps, each of which the template allows, and ends."""
    values, steps = {}, []
    while said := guardrails.following(values):
        [(name, value)] = given([said.split()[-1]]).items()
        assert refusals(guardrails.template(), {name: value}) == []
        values[name] = value
        steps.append(name)
    assert steps == ["TargetIds", "HttpTokensEnforced", "TokensPolicy"]


class Member:
    """An account of an organization of the emulator, in a unit; one session stands for it and for Organizations."""

    def __init__(self, management):
        self.management = management
        self.session = boto3.Session(aws_access_key_id=management, aws_secret_access_key="not-a-secret", region_name="us-east-1")
        organizations = self.session.client("organizations")
        self.root = organizations.list_roots()["Roots"][0]["Id"]
        self.unit = organizations.create_organizational_unit(ParentId=self.root, Name="security")["OrganizationalUnit"]["Id"]
        made = organizations.create_account(Email=f"{management}@example.com", AccountName="policies")
        self.account = made["CreateAccountStatus"]["AccountId"]
        organizations.move_account(AccountId=self.account, SourceParentId=self.root, DestinationParentId=self.unit)
        trust = json.dumps({"Version": "2012-10-17", "Statement": []})
        self.session.client("iam").create_role(RoleName="deployer", Path="/platform/", AssumeRolePolicyDocument=trust)

    def deploys(self, targets, roles="imds-enforcer-deployer", role="deployer", name=guardrails.STACK, account=None):
        account = account or self.account
        rendered = guardrails.policies({"TargetIds": targets, "DeployingRoles": roles})
        stack = guardrails.Stack(self.session, "us-east-1", name)
        who = (account, f"arn:aws:sts::{account}:assumed-role/{role}/someone")
        guardrails.refuse_to_lock_out(self.session, stack, who, rendered)


@pytest.fixture
def member(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.endpoint)
    return Member(f"5555{uuid.uuid4().int % 10**8:08}")


def test_who_would_lock_himself_out_is_told_what_to_give(member):
    for target in (member.root, member.unit, member.account):
        with pytest.raises(SystemExit, match="add platform/deployer to DeployingRoles, or use the management account"):
            member.deploys(target)


def test_who_is_named_may_attach_the_policies_to_himself(member):
    member.deploys(member.root, roles="platform/*")
    member.deploys(f"111122223333,{member.account}", roles="another,platform/deployer")


def test_a_name_without_the_path_of_the_role_is_no_match(member):
    with pytest.raises(SystemExit, match="platform/deployer could not change or lift"):
        member.deploys(member.root, roles="deployer")


def test_what_does_not_bind_the_caller_is_not_refused(member):
    """Other accounts, nothing at all, the management account, and a stack whose name the policies do not keep."""
    member.deploys("111122223333")
    member.deploys("ou-abcd-11112222")
    member.deploys("")
    member.deploys(member.root, account=member.management)
    member.deploys(member.root, name="another-stack")


def test_a_role_whose_path_cannot_be_read_is_told_what_it_needs(member):
    with pytest.raises(SystemExit, match="the path of the role unknown can't be read.*allow it iam:GetRole on itself"):
        member.deploys(member.root, role="unknown")


def test_a_user_is_told_to_use_a_role(member):
    who = (member.account, f"arn:aws:iam::{member.account}:user/someone")
    rendered = guardrails.policies({"TargetIds": member.root})
    with pytest.raises(SystemExit, match="call as a role that DeployingRoles names"):
        guardrails.refuse_to_lock_out(member.session, guardrails.Stack(member.session, "us-east-1", guardrails.STACK), who, rendered)


def test_the_command_refuses_before_it_makes_a_change_set(aws, monkeypatch):
    """In the emulator, each account manages an organization of its own: that it is bound is put in."""
    for name, value in in_the_emulator(aws, "555500000003").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["guardrails.py", "TargetIds=r-abcd", "DeclarativePolicy=off"])
    monkeypatch.setattr(guardrails, "binds", lambda *_: True)
    with pytest.raises(SystemExit, match="could not change or lift the guardrails any more"):
        guardrails.main()
