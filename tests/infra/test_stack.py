"""A stack in the emulator: what is shown, what is kept, what is executed, and what is said of failures."""

import json
import os
import pty
import subprocess
import sys
import uuid

import boto3
import pytest
import stack as stacks
from botocore.exceptions import ClientError, WaiterError
from conftest import KEYS

TEMPLATE = json.dumps(
    {
        "Parameters": {"Name": {"Type": "String"}, "Days": {"Type": "Number", "Default": 4}, "Tag": {"Type": "String", "Default": "a"}},
        "Resources": {
            "Queue": {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": {"Ref": "Name"}, "DelaySeconds": {"Ref": "Days"}}},
            "Topic": {"Type": "AWS::SNS::Topic", "Properties": {"DisplayName": {"Ref": "Tag"}}},
        },
        "Outputs": {"Url": {"Value": {"Ref": "Queue"}}},
    }
)


@pytest.fixture
def session(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.endpoint)
    monkeypatch.setitem(stacks.WAIT, "Delay", 0)
    return boto3.Session(KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"])


@pytest.fixture
def stack(session):
    return stacks.Stack(session, "us-east-1", f"stack-{uuid.uuid4().hex[:8]}")


def deployed(stack, template=TEMPLATE, **parameters):
    change = stack.change(template, {"Name": stack.name, **parameters})
    change.execute()
    return stack.current()


def waiting(stack):
    """The change sets that were not executed: the executed one stays for the record."""
    found = stack.client.list_change_sets(StackName=stack.name)["Summaries"]
    return [it for it in found if it["ExecutionStatus"] != "EXECUTE_COMPLETE"]


def test_a_stack_that_is_not_there_is_shown_and_created(stack):
    assert stack.current() is None
    change = stack.change(TEMPLATE, {"Name": stack.name})
    assert sorted(change.rows()) == [("Add", "Queue", "AWS::SQS::Queue", ""), ("Add", "Topic", "AWS::SNS::Topic", "")]
    assert stack.current() is None
    change.execute()
    found = stack.current()
    assert found["status"] == "CREATE_COMPLETE" and found["parameters"] == {"Name": stack.name, "Days": "4", "Tag": "a"}
    assert found["outputs"]["Url"].endswith(stack.name)
    assert [name for name, _, _ in sorted(stack.resources())] == ["Queue", "Topic"]


def test_what_is_not_named_keeps_the_value_of_the_stack(stack):
    deployed(stack, Days="5")
    change = stack.change(TEMPLATE, {"Tag": "b"})
    assert [row[:3] for row in change.rows()] == [("Modify", "Topic", "AWS::SNS::Topic")]
    change.execute()
    assert stack.current()["parameters"] == {"Name": stack.name, "Days": "5", "Tag": "b"}


def test_a_parameter_that_the_template_lost_is_not_sent_and_a_new_one_has_its_default(stack):
    deployed(stack, Days="5")
    other = json.loads(TEMPLATE.replace('"Days"', '"Delay"'))
    stack.change(json.dumps(other), {"Tag": "b"}).execute()
    assert stack.current()["parameters"] == {"Name": stack.name, "Delay": "4", "Tag": "b"}


def test_without_a_change_there_is_no_change_set(stack):
    deployed(stack)
    assert stack.change(TEMPLATE, {"Days": "4"}) is None
    assert waiting(stack) == []


def test_a_change_that_is_discarded_leaves_nothing(stack):
    stack.change(TEMPLATE, {"Name": stack.name}).discard()
    assert stack.current() is None
    stack.change(TEMPLATE, {"Name": stack.name}).execute()
    stack.change(TEMPLATE, {"Tag": "b"}).discard()
    assert waiting(stack) == []
    assert stack.current()["parameters"]["Tag"] == "a"


def test_a_change_that_is_discarded_leaves_what_another_has_made_of_the_stack(stack):
    mine, late, theirs = (stack.change(TEMPLATE, {"Name": stack.name}) for _ in range(3))
    # The emulator gives the empty stack another id with each change set; CloudFormation does not.
    mine.stack_id = late.stack_id = theirs.stack_id
    mine.discard()
    assert stack.empty() == theirs.stack_id and len(waiting(stack)) == 2
    theirs.execute()
    late.discard()
    assert stack.current()["status"] == "CREATE_COMPLETE"


def test_the_last_who_discards_leaves_no_empty_stack(stack):
    changes = [stack.change(TEMPLATE, {"Name": stack.name}) for _ in range(2)]
    for change in changes:
        change.discard()
    assert stack.empty() is None and stack.current() is None


def test_an_empty_stack_can_be_deleted(stack):
    stack.change(TEMPLATE, {"Name": stack.name})
    stack.delete(stack.empty(), empty=True)
    assert stack.empty() is None


def test_a_stack_that_was_empty_and_that_somebody_deployed_meanwhile_stays(stack):
    change = stack.change(TEMPLATE, {"Name": stack.name})
    empty = stack.empty()
    change.execute()
    with pytest.raises(stacks.Failed, match="somebody deployed it meanwhile"):
        stack.delete(empty, empty=True)
    assert stack.current()["status"] == "CREATE_COMPLETE"


def expired(operation):
    return ClientError({"Error": {"Code": "ExpiredToken", "Message": "the token has expired"}}, operation)


@pytest.mark.parametrize(
    ("described", "said"),
    [([], "how it ended is not known"), ([{"StackStatus": "UPDATE_ROLLBACK_COMPLETE"}], "its events can't be read")],
)
def test_credentials_that_expire_hide_nothing_of_what_was_begun(stack, monkeypatch, described, said):
    deployed(stack)
    change = stack.change(TEMPLATE, {"Tag": "b"})

    def wait(**_):
        raise WaiterError("StackUpdateComplete", "the token has expired", {"Stacks": described} if described else {})

    def reasons(_):
        raise expired("DescribeStackEvents")

    monkeypatch.setattr(stack.client, "get_waiter", lambda _: type("Waiter", (), {"wait": staticmethod(wait)}))
    monkeypatch.setattr(stack, "reasons", reasons)
    with pytest.raises(stacks.Begun, match=said) as failure:
        change.execute()
    assert f"describe-stack-events --stack-name {stack.name} --region us-east-1" in str(failure.value)


def test_what_cloudformation_refuses_is_a_failure_with_its_words(stack):
    with pytest.raises(stacks.Failed, match="Name"):
        stack.change(TEMPLATE, {})
    assert stack.current() is None


def test_a_failure_names_the_resource_and_the_reason(stack, monkeypatch):
    deployed(stack)
    change = stack.change(TEMPLATE, {"Tag": "b"})
    real = stack.client.get_paginator
    event = {"PhysicalResourceId": "", "LogicalResourceId": "Topic", "ResourceStatus": "UPDATE_FAILED", "ResourceStatusReason": "no permission"}
    follows = {**event, "LogicalResourceId": "Queue", "ResourceStatusReason": "Resource update cancelled"}
    begin = {**event, "PhysicalResourceId": change.stack_id, "ResourceStatus": "UPDATE_IN_PROGRESS"}
    before = {**event, "LogicalResourceId": "Old", "ResourceStatusReason": "of another day"}
    page = type("Page", (), {"paginate": lambda self, **_: [{"StackEvents": [follows, event, begin, before]}]})()
    monkeypatch.setattr(stack.client, "get_paginator", lambda name: page if name == "describe_stack_events" else real(name))
    assert stack.reasons(change.stack_id) == "Topic: no permission"


def test_a_creation_that_fails_says_what_must_be_done_with_the_rest(stack, session):
    name = f"taken-{uuid.uuid4().hex[:8]}"
    session.client("events", region_name="us-east-1").create_event_bus(Name=name)
    bus = json.dumps({"Resources": {"Bus": {"Type": "AWS::Events::EventBus", "Properties": {"Name": name}}}})
    change = stack.change(bus, {})
    try:
        change.execute()
    except stacks.Failed as failure:
        assert "Bus" in str(failure)
        with pytest.raises(stacks.Failed, match=f"ROLLBACK_COMPLETE, and can only be deleted: run aws cloudformation delete-stack --stack-name {stack.name} --region us-east-1, then"):
            stack.change(bus, {})
    else:
        pytest.skip("this emulator creates a bus that is there")
    stack.delete(stack.current()["id"])
    assert stack.current() is None


@pytest.mark.parametrize(
    ("status", "said"),
    [
        ("UPDATE_IN_PROGRESS", "wait for its end"),
        ("DELETE_IN_PROGRESS", "wait for its end"),
        ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "wait for its end"),
        ("UPDATE_ROLLBACK_FAILED", "aws cloudformation continue-update-rollback --stack-name"),
        ("UPDATE_FAILED", "aws cloudformation rollback-stack --stack-name"),
        ("ROLLBACK_COMPLETE", "make destroy Region=us-east-1 StackName="),
        ("ROLLBACK_FAILED", "make destroy Region=us-east-1 StackName="),
        ("DELETE_FAILED", "make destroy Region=us-east-1 StackName="),
        ("CREATE_FAILED", "make destroy Region=us-east-1 StackName="),
    ],
)
def test_a_stack_that_cannot_be_changed_says_what_to_do(stack, status, said):
    current = {"status": status, "parameters": {"Mode": "observe", "StateChangeEvents": "on"}}
    assert f"is {status}" in stack.obstacle(current) and said in stack.obstacle(current)


def test_what_make_destroy_refuses_is_deleted_by_hand(stack):
    said = stack.obstacle({"status": "ROLLBACK_COMPLETE", "parameters": {"OrganizationId": "o-a1b2c3d4e5", "SilenceHours": "3"}})
    assert f"run aws cloudformation delete-stack --stack-name {stack.name} --region us-east-1, then try again" in said


@pytest.mark.parametrize("status", ["CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE"])
def test_a_stack_that_can_be_changed_has_no_obstacle(stack, status):
    assert stack.obstacle({"status": status}) is None
    assert stack.obstacle(None) is None


def ask(answer=None, question="stack.confirmed('Deploy?')", **variables):
    """The exit code and the output of a question that a terminal answers, or that has none."""
    command = [sys.executable, "-c", f"import stack, sys; sys.exit(0 if {question} else 3)"]
    environment = {**{name: value for name, value in os.environ.items() if name != "YES"}, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    if answer is None:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr
    terminal, end = pty.openpty()
    os.write(terminal, answer)
    done = subprocess.run(command, env=environment, stdin=end, capture_output=True, text=True, check=False)
    os.close(end)
    os.close(terminal)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"YES\n", 0), (b"n\n", 3), (b"\n", 3), (b"deploy\n", 3)])
def test_only_yes_is_an_answer(answer, code):
    assert ask(answer)[0] == code


def test_without_a_terminal_nothing_is_asked_and_nothing_done_unless_the_answer_was_given():
    code, said = ask()
    assert code == 1 and "nothing was changed: there is no terminal to ask on; with YES=1, nothing is asked" in said
    assert ask(YES="1")[0] == 0
    assert ask(YES="no")[0] == 1


def test_where_only_the_command_line_counts_the_environment_is_no_answer():
    code, said = ask(question="stack.confirmed('Delete?', '')", YES="1")
    assert code == 1 and "with YES=1 on the command line of make, nothing is asked" in said
    assert ask(question="stack.confirmed('Delete?', '1')")[0] == 0
