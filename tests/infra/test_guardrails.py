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

import guardrails
import pytest
from cfnlint.api import lint_all
from parameters import given, refusals
from template import ROOT


def test_cfn_lint_finds_nothing():
    assert [it.message for it in lint_all(guardrails.TEMPLATE.read_text()) if not it.rule.id.startswith("I")] == []


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
    for policy in ("keep (SERVICE_CONTROL_POLICY), ", "tokens (SERVICE_CONTROL_POLICY), ", "defaults (DECLARATIVE_POLICY_EC2), "):
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
    for value in ("", "one", "one,two", "aws-reserved/sso.amazonaws.com/*/AWSReservedSSO_Security_*"):
        assert refusals(template, {"ExemptingRoles": value, "DeployingRoles": value}) == []
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
        self.asked = []

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
    assert "Add  KeepEnforcer" in capsys.readouterr().out


def test_without_a_yes_nothing_stays(monkeypatch):
    monkeypatch.delenv("YES", raising=False)
    monkeypatch.setattr("sys.stdin", open(os.devnull))
    stack = ChangeOfNobody()
    with pytest.raises(SystemExit, match="nothing was changed"):
        guardrails.deploy(stack, {})
    assert stack.asked == [{}, "discard"]


@pytest.mark.parametrize("values", [{}, {"HighestHopLimit": 2, "RoleDelivery": "on", "ExemptionTag": ""}], ids=["default", "everything on"])
def test_organizations_of_the_emulator_takes_the_policies(aws, values):
    organizations = aws("organizations")
    name = f"guardrails-{len(values)}"
    for policy in guardrails.policies(values, stack=name).values():
        made = organizations.create_policy(Name=policy.name, Type=policy.type, Description="rendered", Content=policy.text)
        kept = organizations.describe_policy(PolicyId=made["Policy"]["PolicySummary"]["Id"])["Policy"]
        assert json.loads(kept["Content"]) == policy.document
        assert policy.size <= guardrails.LIMITS[policy.type]
