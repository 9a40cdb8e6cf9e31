"""make deploy and make destroy, as a person runs them, against the emulator, with a cargo that compiles nothing.

Each test has an account of its own, which in the emulator is an access key id of twelve digits. The
emulator knows no bus that has rules of others and can't be deleted: there, only the refusal is tried.
"""

import itertools
import json
from datetime import UTC, datetime

import boto3
import build
import choice
import command
import deploy
import destroy
import hub
import kept
import organization
import others
import package
import pytest
import sam
from botocore.exceptions import ClientError, EndpointConnectionError
from conftest import BIN, KEYS, NO_FILES, elf
from stack import Change, Failed
from template import ROOT
from test_package import CARGO, TARGETS, Tree

ACCOUNTS = (f"4444{number:08}" for number in itertools.count(1))
TEMPLATE = sam.raw()
TODAY = [f"{datetime.now(UTC):%Y-%m-%d}"]


class Person:
    """Whoever deploys from a checkout, with an account."""

    def __init__(self, aws, tree, account):
        self.aws, self.tree, self.account = aws, tree, account
        self.tracked = tracked(tree)

    def make(self, *words, answers="y\n", binary="x86_64", **variables):
        environment = {"AWS_ENDPOINT_URL": self.aws.endpoint, "AWS_ACCESS_KEY_ID": self.account, **variables}
        return self.tree.on_a_terminal("make", *words, answers=answers, binary=elf(binary), **environment)

    def done(self, *words, **more):
        status, output = self.make(*words, **more)
        assert status == 0, output
        assert tracked(self.tree) == self.tracked
        return output

    def typed(self, line, folder=".", more_code=b""):
        """What a line of a manual prints, given to a shell by somebody who agrees to what is asked."""
        environment = {"AWS_ENDPOINT_URL": self.aws.endpoint, "AWS_ACCESS_KEY_ID": self.account, "SAM_CLI_TELEMETRY": "0"}
        binary = elf("x86_64") + more_code
        status, output = self.tree.on_a_terminal("bash", "-euc", f"cd {folder}\n{line}", answers="y\n", binary=binary, **environment)
        assert status == 0, output
        assert tracked(self.tree) == self.tracked
        return output

    def refused(self, *words, **more):
        status, output = self.make(*words, **more)
        assert status != 0, output
        assert "Traceback" not in output, output
        assert tracked(self.tree) == self.tracked
        return output

    def client(self, service, region="us-east-1"):
        return self.aws(service, region, self.account)

    def values(self, region="us-east-1", name="imds-enforcer"):
        """The parameters of the stack, or None where there is none."""
        found = [it for it in self.client("cloudformation", region).describe_stacks()["Stacks"] if it["StackName"] == name]
        return {it["ParameterKey"]: it["ParameterValue"] for it in found[0]["Parameters"]} if found else None

    def kept(self, region="us-east-1", name="imds-enforcer"):
        return json.loads((self.tree.root / f"infra/deployed/{self.account}/{region}/{name}.json").read_text())["parameters"]


def tracked(tree):
    """Every file that git would have, with what is in it."""
    places = [tree.root / "Makefile", *(tree.root / "infra").rglob("*")]
    ignored = ("deployed", "__pycache__")
    return {path: path.read_bytes() for path in places if path.is_file() and not any(it in path.parts for it in ignored)}


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "a folder")


@pytest.fixture
def person(aws, tree):
    return Person(aws, tree, next(ACCOUNTS))


def test_a_first_deployment_enforces_since_today_and_shows_what_it_will_do(person):
    output = person.done("deploy", "AlarmEmail=security@example.com", "Mode=observe", "SweepSchedule=rate(2 hours)", AWS_REGION="eu-central-1")
    assert f"account {person.account}, Region eu-central-1, as arn:aws:" in output
    assert "first deployment" in output and "Mode: observe" in output and "Add      Function " in output
    [line] = [it for it in output.splitlines() if it.startswith("  EnforceSince: ")]
    assert "today in UTC" in line
    assert output.count("[y/N]") == 1 and "Deploy imds-enforcer to eu-central-1?" in output
    assert output.splitlines()[-1].split() == ["eu-central-1", "deployed"]
    values = person.values("eu-central-1")
    assert (values["Mode"], values["AlarmEmail"], values["SweepSchedule"]) == ("observe", "security@example.com", "rate(2 hours)")
    assert values["EnforceSince"] in (*TODAY, f"{datetime.now(UTC):%Y-%m-%d}")
    assert person.kept("eu-central-1").keys() == {"Mode", "AlarmEmail", "SweepSchedule"}


def test_an_update_keeps_what_was_chosen_and_a_second_region_has_nothing_of_the_first(person):
    person.done("deploy", "Mode=observe", "EnforceSince=2026-11-02", Region="unused", AWS_DEFAULT_REGION="us-east-1")
    output = person.done("deploy", "Region=us-east-1", "GraceDays=14")
    assert "GraceDays: 0 → 14, given" in output
    assert "Mode: observe, of the stack" in output and "EnforceSince: 2026-11-02, of the stack" in output and "AlarmEmail: empty, of the stack" in output
    assert {name: person.values()[name] for name in ("Mode", "EnforceSince", "GraceDays")} == {"Mode": "observe", "EnforceSince": "2026-11-02", "GraceDays": "14"}
    person.done("deploy", "Region=eu-central-1", "Mode=enforce")
    assert person.values("eu-central-1")["Mode"] == "enforce" and person.values("eu-central-1")["EnforceSince"] != "2026-11-02"
    output = person.done("deploy", "Regions=us-east-1,eu-central-1", answers="")
    assert "[y/N]" not in output and output.count("unchanged") == 2 and output.count("nothing to change") == 2


def test_from_a_fresh_clone_the_stack_is_the_truth(person, aws, tmp_path):
    person.done("deploy", "Region=us-east-1", "Mode=observe", "EnforceSince=2026-11-02")
    other = Person(aws, Tree(tmp_path / "clone"), person.account)
    other.done("deploy", "Region=us-east-1", "GraceDays=14")
    assert (person.values()["Mode"], person.values()["EnforceSince"]) == ("observe", "2026-11-02")
    assert other.kept() == {"Mode": "observe", "GraceDays": "14"}
    output = person.done("deploy", "Region=us-east-1", "XRay=on")
    assert person.values()["GraceDays"] == "14", output


def test_where_file_and_stack_differ_the_stack_stays_and_it_is_said(person, aws, tmp_path):
    person.done("deploy", "Region=us-east-1", "Mode=observe")
    Person(aws, Tree(tmp_path / "clone"), person.account).done("deploy", "Region=us-east-1", "Mode=enforce")
    output = person.done("deploy", "Region=us-east-1")
    assert "Mode: enforce stays, which the stack has; observe was kept here" in output
    assert person.values()["Mode"] == "enforce" and person.kept()["Mode"] == "enforce"


def test_a_stack_that_was_deleted_by_other_means_enforces_since_its_new_day(person):
    person.done("deploy", "Region=us-east-1", "Mode=observe", "EnforceSince=all")
    place = person.tree.root / f"infra/deployed/{person.account}/us-east-1/imds-enforcer.json"
    place.write_text(json.dumps({"parameters": {**person.kept(), "EnforceSince": "all"}}))  # as an earlier build kept it
    client = person.client("cloudformation")
    client.delete_stack(StackName="imds-enforcer")
    client.get_waiter("stack_delete_complete").wait(StackName="imds-enforcer", WaiterConfig={"Delay": 1})
    output = person.done("deploy", "Region=us-east-1")
    assert "today in UTC" in output and "Mode: observe, as it was kept" in output
    assert person.values()["EnforceSince"] != "all" and "EnforceSince" not in person.kept()


def test_a_first_deployment_that_would_enforce_says_so_and_nobody_slides_into_it(person):
    output = person.done("deploy", "Region=eu-west-1", "EnforceSince=all")
    assert "Mode: enforce, by default" in output and "EnforceSince: all, given" in output and "AlarmEmail: empty, by default" in output
    person.done("deploy", "Region=us-east-1", "Mode=observe")
    asked = "eu-central-1: Mode is not given, and would be enforce by default, while it only observes in us-east-1: give Mode=observe or Mode=enforce"
    assert asked in person.refused("deploy", "Region=eu-central-1")
    assert asked in person.refused("deploy", "Regions=us-east-1,eu-central-1")
    assert person.values("eu-central-1") is None
    person.done("deploy", "Regions=us-east-1,eu-central-1", "Mode=observe")


def test_a_region_that_another_stack_looks_after_gets_no_second_one_unawares(person):
    client = person.client("cloudformation")
    topic = {"Topic": {"Type": "AWS::SNS::Topic"}}
    outputs = {f"ImdsEnforcer{name}1A2B": {"Value": "it"} for name in ("FunctionName", "DeadLetterQueueUrl", "SweepRuleName")}
    for number in range(100):  # more than a page
        client.create_stack(StackName=f"mine-{number}", TemplateBody=json.dumps({"Description": "imds-enforcer: my notes", "Resources": topic}))
    client.create_stack(StackName="mine-cdk", TemplateBody=json.dumps({"Resources": topic, "Outputs": outputs}))
    described = {"Description": "imds-enforcer: requires IMDSv2 session tokens", "Resources": topic}
    client.create_stack(StackName="StackSet-imds-enforcer-0a1b", TemplateBody=json.dumps(described))
    output = person.refused("deploy", "Region=us-east-1")
    assert "us-east-1: mine-cdk, StackSet-imds-enforcer-0a1b already looks after the instances of this Region" in output
    assert person.tree.recorded() == [] and person.values() is None
    person.done("deploy", "Region=us-east-1", "StackName=guided")
    assert "guided" in person.refused("deploy", "Region=us-east-1")
    person.done("deploy", "Region=us-east-1", "StackName=guided", "Mode=observe")
    person.done("deploy", "Region=us-east-1", "StackName=imds-enforcer")


class Denied:
    """A client of somebody who may not list stacks."""

    def get_paginator(self, _):
        return self

    def paginate(self):
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "not authorized"}}, "DescribeStacks")


def test_who_may_not_list_stacks_is_told_what_is_not_known():
    assert others.enforcers(Denied(), "imds-enforcer") is None


def test_a_stack_of_terraform_is_changed_there_alone():
    stack = {"EnforceSince": "all", "Mode": "observe", "CodeBucket": "amzn-s3-demo-bucket", "CodeKey": "function.zip"}
    [refusal] = choice.choose(TEMPLATE, {}, stack, {}, "2026-11-25").refusals
    assert "Terraform's" in refusal and "change it there" in refusal


# Changes the stack by another's hand while the package is built.
MEANWHILE = """#!/bin/sh
"{python}" - <<'END'
import boto3
client = boto3.client("cloudformation", region_name="us-east-1")
kept = [it["ParameterKey"] for it in client.describe_stacks(StackName="imds-enforcer")["Stacks"][0]["Parameters"]]
values = [{{"ParameterKey": it, "UsePreviousValue": True}} for it in kept if it != "Mode"]
client.update_stack(StackName="imds-enforcer", UsePreviousTemplate=True, Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
    Parameters=[*values, {{"ParameterKey": "Mode", "ParameterValue": "enforce"}}])
client.get_waiter("stack_update_complete").wait(StackName="imds-enforcer", WaiterConfig={{"Delay": 1}})
END
"""


def test_what_somebody_else_changed_while_it_was_built_is_not_overwritten(person):
    person.done("deploy", "Region=us-east-1", "Mode=observe")
    person.tree.command("cargo", MEANWHILE.format(python=BIN / "python") + CARGO.removeprefix("#!/bin/sh\n"))
    output = person.refused("deploy", "Region=us-east-1", "GraceDays=14")
    assert "us-east-1: somebody else changed stack imds-enforcer meanwhile: run the same again" in output
    assert (person.values()["Mode"], person.values()["GraceDays"]) == ("enforce", "0")
    assert change_sets(person, "us-east-1") == []


def change_sets(person, region):
    """The change sets of the stack that nobody executed."""
    found = person.client("cloudformation", region).list_change_sets(StackName="imds-enforcer")["Summaries"]
    return [it["ChangeSetName"] for it in found if it["ExecutionStatus"] == "AVAILABLE"]


def within(person, monkeypatch, *regions):
    """Lets deploy.main run in this process, for these Regions, by somebody who agrees."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # which SAM's code takes, and which would have another test's account
    for name, value in {**KEYS, **NO_FILES, "AWS_ENDPOINT_URL": person.aws.endpoint, "AWS_ACCESS_KEY_ID": person.account}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(kept, "ROOT", person.tree.root / "infra/deployed")
    monkeypatch.setattr(build, "packages", lambda architectures: dict.fromkeys(architectures, package.pack(elf("x86_64"))))
    monkeypatch.setattr(command, "typed", lambda: ({"Regions": ",".join(regions)}, {"GraceDays": "14"}))
    monkeypatch.setattr(deploy, "agreed", lambda target, plans: True)


FAULTS = {
    "interrupted": KeyboardInterrupt(),
    "refused": Failed("execution refused"),
    "no answer": EndpointConnectionError(endpoint_url="https://cloudformation.us-east-1.amazonaws.com"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_whatever_ends_an_execution_the_table_comes_and_no_change_set_stays(person, monkeypatch, capsys, fault):
    regions = ("us-east-1", "eu-central-1")
    person.done("deploy", f"Regions={','.join(regions)}", "Mode=observe")
    within(person, monkeypatch, *regions)
    monkeypatch.setattr(Change, "execute", lambda self: (_ for _ in ()).throw(fault))
    with pytest.raises(SystemExit) as ended:
        deploy.main()
    assert "run the same with Regions=us-east-1,eu-central-1" in str(ended.value)
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines()]
    assert ["us-east-1", "failed"] in rows and ["eu-central-1", "not"] in rows
    assert [change_sets(person, region) for region in regions] == [[], []]


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), RuntimeError("unforeseen")], ids=["interrupted", "unforeseen"])
def test_what_ends_a_preparation_leaves_no_change_set(person, monkeypatch, fault):
    regions = ("us-east-1", "eu-central-1")
    person.done("deploy", f"Regions={','.join(regions)}", "Mode=observe")
    within(person, monkeypatch, *regions)
    rows = Change.rows

    def broken(self):
        if self.stack.region == "eu-central-1":
            raise fault
        return rows(self)

    monkeypatch.setattr(Change, "rows", broken)
    with pytest.raises(type(fault)):
        deploy.main()
    assert [change_sets(person, region) for region in regions] == [[], []]


def test_everything_that_is_wrong_is_refused_at_once_before_anything_is_built_or_called(person):
    words = ["mode=observe", "GraceDays=abc", "EnforceSince=2026-02-29", "Regions=us-east1", "StackName=my stack"]
    output = person.refused("deploy", *words, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    for said in (
        "mode is unknown; did you mean Mode?",
        'GraceDays is "abc"; it must be a number from 0 to 90',
        'EnforceSince is "2026-02-29"; it must be a day that there is',
        "us-east1 is no Region that botocore knows; did you mean us-east-1?",
        'StackName is "my stack"; it must be letters',
        "nothing was changed",
    ):
        assert said in output
    assert person.tree.recorded() == []


@pytest.mark.parametrize(
    ("words", "variables", "said"),
    [
        (["Mode=observe"], {}, "no Region: give Region=us-east-1, or set AWS_REGION"),
        (["Region=us-east-1", "Regions=us-east-1"], {}, "Region and Regions are both given"),
        (["Region=cn-north-1"], {}, "cn-north-1 is in partition aws-cn, and these credentials are for aws"),
        (["Region=us-east-1", "ARCHITECTURE=arm64"], {}, "ARCHITECTURE is unknown; did you mean Architecture?"),
        (["Region=us-east-1"], {"ARCHITECTURE": "arm64"}, "give Architecture=arm64 here"),
        (["Region=us-east-1", "ReservedConcurrency=2"], {}, "ReservedConcurrency must be 0 or at least 3"),
    ],
    ids=["no Region", "two Regions", "another partition", "make's name", "of the environment", "a rule"],
)
def test_what_cannot_be_deployed_is_refused_and_nothing_built(person, words, variables, said):
    assert said in person.refused("deploy", *words, **variables)
    assert person.tree.recorded() == []


def test_no_credentials_are_said_without_a_trace(person):
    output = person.refused("deploy", "Region=us-east-1", AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_MAX_ATTEMPTS="1")
    assert "no credentials that AWS accepts" in output


def test_two_regions_are_one_question_and_one_package(person):
    output = person.done("deploy", "Regions=us-east-1,eu-central-1", "Mode=observe")
    assert output.count("[y/N]") == 1 and "Deploy imds-enforcer to us-east-1, eu-central-1?" in output
    assert [line.split() for line in output.splitlines()[-2:]] == [["us-east-1", "deployed"], ["eu-central-1", "deployed"]]
    assert len(person.tree.recorded()) == 1


@pytest.mark.parametrize("answers", ["n\n", "\n"])
def test_without_a_yes_nothing_changes(person, answers):
    output = person.refused("deploy", "Regions=us-east-1,eu-central-1", answers=answers)
    assert "nothing was deployed" in output
    assert person.values("us-east-1") is None and person.values("eu-central-1") is None
    assert not (person.tree.root / "infra/deployed").exists()


def test_yes_is_given_in_advance_where_there_is_no_terminal(person):
    environment = {"AWS_ENDPOINT_URL": person.aws.endpoint, "AWS_ACCESS_KEY_ID": person.account, "binary": elf("x86_64")}
    status, output = person.tree.run("make", "deploy", "Region=us-east-1", **environment)
    assert status and "there is no terminal to ask on; with YES=1, nothing is asked" in output and person.values() is None
    status, output = person.tree.run("make", "deploy", "Region=us-east-1", "YES=1", **environment)
    assert status == 0 and "[y/N]" not in output and person.values(), output


def test_a_failure_ends_the_command_and_says_how_to_go_on(person):
    person.client("events", "us-east-1").create_event_bus(Name="taken")
    output = person.refused("deploy", "Regions=us-east-1,eu-central-1", "ResultBus=taken")
    rows = [line.split(maxsplit=2) for line in output.splitlines()]
    assert any(row[:2] == ["us-east-1", "failed"] and "ResultEventBus" in row[2] for row in rows if len(row) == 3), output
    assert ["eu-central-1", "not", "begun"] in rows
    assert "run the same with Regions=us-east-1,eu-central-1" in output
    assert person.values("eu-central-1") is None
    output = person.refused("deploy", "Region=us-east-1")
    assert "ROLLBACK_COMPLETE, and can only be deleted: run make destroy Region=us-east-1 StackName=imds-enforcer" in output
    person.done("destroy", "Region=us-east-1")
    person.done("deploy", "Region=us-east-1", "ResultBus=free")


def test_what_cannot_be_built_is_said_before_anything_is_built(person):
    person.tree.lacks(TARGETS[1])
    output = person.refused("deploy", "Region=us-east-1", "Architecture=arm64", binary="arm64")
    assert "run rustup target add aarch64-unknown-linux-gnu" in output
    assert person.tree.recorded() == [] and person.values() is None


def test_a_key_that_does_not_fit_is_refused_before_anything_is_built(person):
    judge = "def refusals(session, region, account, key_arn):\n    return [f'{key_arn} does not fit {account}']\n"
    (person.tree.root / "infra/deploy/key.py").write_text(judge)
    person.tracked = tracked(person.tree)
    key = "arn:aws:kms:us-east-1:111122223333:key/one"
    output = person.refused("deploy", "Region=us-east-1", f"KmsKeyArn={key}")
    assert f"us-east-1: {key} does not fit {person.account}" in output
    assert person.tree.recorded() == []


def test_a_permission_that_is_missing_is_said_without_a_trace():
    def denied():
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "not authorized"}}, "DescribeStacks")

    with pytest.raises(SystemExit) as ended:
        command.run(denied)
    assert "AWS refuses or does not answer: " in str(ended.value) and "DescribeStacks" in str(ended.value)


def test_the_architecture_of_the_stack_decides_the_build(person):
    person.done("deploy", "Region=us-east-1", "Architecture=arm64", binary="arm64")
    output = person.done("deploy", "Region=us-east-1", "Mode=observe", binary="arm64")
    assert all("aarch64-unknown-linux-gnu" in line for line in person.tree.recorded()), output
    output = person.refused("deploy", "Region=us-east-1", "Mode=enforce", binary="x86_64")
    assert "bootstrap is for x86_64, not for arm64" in output
    assert person.values()["Mode"] == "observe"


def test_another_stack_of_this_name_is_never_touched(person):
    body = json.dumps({"Description": "mine", "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    person.client("cloudformation").create_stack(StackName="mine", TemplateBody=body)
    for target in ("deploy", "destroy"):
        assert "mine is a stack of something else" in person.refused(target, "Region=us-east-1", "StackName=mine")
    assert person.tree.recorded() == [] and person.values(name="mine") == {}


def test_a_stack_that_sam_deployed_by_hand_is_unchanged_and_the_other_way_round(person):
    person.done("package")
    environment = {"AWS_ENDPOINT_URL": person.aws.endpoint, "AWS_ACCESS_KEY_ID": person.account, "AWS_DEFAULT_REGION": "us-east-1", "SAM_CLI_TELEMETRY": "0"}
    by_hand = [str(BIN / "sam"), "deploy", "--no-confirm-changeset", "--no-progressbar"]
    status, output = person.tree.run(*by_hand, "--parameter-overrides", "EnforceSince=2026-11-02", folder="infra", **environment)
    assert status == 0, output
    assert "nothing to change" in person.done("deploy", "Region=us-east-1", answers="")
    person.done("deploy", "Region=us-east-1", "Mode=observe")
    status, output = person.tree.run(*by_hand, folder="infra", **environment)
    assert status == 0 and "No changes to deploy" in output, output
    assert person.values()["Mode"] == "observe"


def test_destroy_names_what_goes_and_what_stays_and_keeps_the_choices_but_for_the_day(person):
    person.done("deploy", "Region=us-east-1", "Mode=observe", "EnforceSince=2026-11-02")
    stack = person.client("cloudformation").describe_stacks(StackName="imds-enforcer")["Stacks"][0]
    outputs = {it["OutputKey"]: it["OutputValue"] for it in stack["Outputs"]}
    person.client("sqs").send_message(QueueUrl=outputs["DeadLetterQueueUrl"], MessageBody="an event")
    assert "nothing was deleted" in person.refused("destroy", "Region=us-east-1", answers="n\n")
    output = person.done("destroy", "Regions=us-east-1,eu-central-1")
    goes, stays = output.split("and leaves")
    assert "  Function " in goes and "LaunchQueue" in goes and "with the 0 events that wait in it" in goes
    assert "LogGroup" in stays and f"{outputs['DeadLetterQueueUrl']}, with 1 events" in stays
    assert "  LogGroup " not in goes and "  DeadLetterQueue " not in goes
    assert f"aws sqs delete-queue --region us-east-1 --queue-url {outputs['DeadLetterQueueUrl']}" in output
    assert [line.split()[:2] for line in output.splitlines()[-2:]] == [["us-east-1", "deleted"], ["eu-central-1", "no"]]
    assert person.values() is None
    assert person.client("sqs").get_queue_attributes(QueueUrl=outputs["DeadLetterQueueUrl"])
    assert person.kept() == {"Mode": "observe"}
    output = person.done("deploy", "Region=us-east-1")
    assert "Mode: observe, as it was kept" in output and "today in UTC" in output
    assert person.values()["EnforceSince"] != "2026-11-02"


def test_destroy_takes_an_empty_stack_away(person):
    body = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    given = {"StackName": "imds-enforcer", "ChangeSetName": "left", "ChangeSetType": "CREATE", "TemplateBody": body}
    person.client("cloudformation").create_change_set(**given)
    output = person.done("destroy", "Region=us-east-1")
    assert "deletes an empty stack" in output and output.splitlines()[-1].split()[:2] == ["us-east-1", "deleted"]
    assert person.values() is None


def test_an_answer_of_the_environment_deletes_nothing(person):
    person.done("deploy", "Region=us-east-1", YES="1", answers="")
    assert "nothing was deleted" in person.refused("destroy", "Region=us-east-1", YES="1", answers="n\n")
    assert person.values() is not None
    assert "[y/N]" not in person.done("destroy", "Region=us-east-1", "YES=1", answers="")


@pytest.mark.parametrize("marks", [organization.MARKS | {"Mode"}, hub.MARKS], ids=["organization", "hub"])
def test_a_stack_of_another_command_is_none_of_deploy_and_destroy(person, marks):
    body = json.dumps({"Parameters": {it: {"Type": "String"} for it in marks}, "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
    values = [{"ParameterKey": it, "ParameterValue": "x"} for it in marks]
    person.client("cloudformation").create_stack(StackName="other", TemplateBody=body, Parameters=values)
    for target in ("deploy", "destroy"):
        assert "other is a stack of something else" in person.refused(target, "Region=us-east-1", "StackName=other")


def test_every_command_knows_its_own_stack_and_no_other():
    marks = {"template": command.MARKS, "organization": organization.MARKS, "hub": hub.MARKS}
    stated = {it: sam.yaml_parse((ROOT / f"infra/{it}.yaml").read_text())["Parameters"].keys() for it in [*marks, "guardrails", "key"]}
    for name, its in marks.items():
        assert [it for it, parameters in stated.items() if parameters >= its] == [name]


def test_a_stack_of_the_stack_set_or_of_terraform_is_not_deleted():
    own = {"Mode": "observe", "StateChangeEvents": "on"}
    [said] = command.foreign({"parameters": own}, "StackSet-imds-enforcer-0a1b")
    assert "run make organization in the account that has it" in said
    assert "run terraform destroy" in destroy.of_terraform({"parameters": {**own, "CodeBucket": "b"}}, "imds-enforcer")[0]
    assert destroy.of_terraform({"parameters": own}, "imds-enforcer") == []


def test_a_stack_that_is_being_deleted_is_not_called_anothers():
    underway = type("Underway", (), {"name": "imds-enforcer", "obstacle": lambda *_: "wait for its end"})()
    assert command.against(underway, {"status": "DELETE_IN_PROGRESS", "parameters": {}}) == ["wait for its end"]
    assert "something else" in command.against(underway, {"status": "ROLLBACK_COMPLETE", "parameters": {}})[0]


def test_a_bus_with_rules_of_others_is_refused_before_anything_is_deleted(person):
    person.done("deploy", "Region=us-east-1", "ResultBus=results")
    person.client("events").put_rule(Name="theirs", EventBusName="results", EventPattern='{"source":["imds-enforcer"]}')
    output = person.refused("destroy", "Region=us-east-1")
    assert "the bus results has rules that are not the stack's: theirs; delete them first" in output
    assert person.values()["ResultBus"] == "results"


def test_destroy_knows_no_parameters(person):
    assert "Mode is unknown; there are PYTHON, Region, Regions, StackName, YES" in person.refused("destroy", "Region=us-east-1", "Mode=observe")


def test_a_stack_of_an_earlier_build_must_be_told_since_when():
    chosen = choice.choose(TEMPLATE, {"Mode": "enforce"}, {"Mode": "enforce", "SweepGraceDays": "14"}, {}, "2026-11-25")
    [refusal] = chosen.refusals
    assert "give EnforceSince=all to go on so" in refusal and "EnforceSince=2026-11-25" in refusal
    chosen = choice.choose(TEMPLATE, {"EnforceSince": "all"}, {"Mode": "enforce", "SweepGraceDays": "14"}, {}, "2026-11-25")
    assert chosen.refusals == [] and chosen.sent == {"EnforceSince": "all"}
    assert "SweepGraceDays=14 of the stack is no parameter any more: dropped" in chosen.lines
    assert "GraceDays: new, with its default 0" in chosen.lines


def test_a_value_of_the_stack_that_the_new_template_refuses_is_said():
    stack = {"EnforceSince": "all", "SweepAlarmHours": "1"}
    [refusal] = choice.choose(TEMPLATE, {}, stack, {}, "2026-11-25").refusals
    assert refusal.startswith('SweepAlarmHours is "1"; it must be a number from 3 to ')


def test_the_folder_of_choices_is_ignored_by_git():
    assert "/infra/deployed" in (ROOT / ".gitignore").read_text().splitlines()
