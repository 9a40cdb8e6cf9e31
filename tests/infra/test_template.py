"""The SAM template, as text and as CloudFormation would see it."""

import copy
import os
import pathlib
import subprocess
import sys

import checks
import pytest
import sam
import template as templates
from samtranslator.model.exceptions import InvalidDocumentException

BIN = pathlib.Path(sys.executable).parent


def test_sam_validates_it():
    command = [BIN / "sam", "validate", "--lint", "--template", sam.TEMPLATE]
    environment = {**os.environ, "AWS_DEFAULT_REGION": "us-east-1", "SAM_CLI_TELEMETRY": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_is_wrong_with_it():
    assert checks.findings(sam.raw()) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"Mode": "observe"},
        {"KmsKeyArn": "arn:aws:kms:us-east-1:111122223333:key/1"},
        {"ApiCallEvents": "off", "StateChangeEvents": "off", "Sweep": "off"},
        {"AlarmEmail": "security@example.com", "ReservedConcurrency": 5, "Architecture": "arm64"},
    ],
    ids=lambda parameters: ",".join(parameters),
)
def test_nothing_is_wrong_with_it_in_another_configuration(parameters):
    resources = templates.resources(**parameters)
    others = [it for it in checks.CHECKS if it is not checks.the_role_may_do_what_the_code_calls_and_nothing_else]
    assert [finding for check in others for finding in check(resources)] == []


def test_in_observe_mode_the_role_cannot_write():
    role = templates.resources(Mode="observe")["FunctionRole"]
    actions = {action for it in templates.statements(role) for action in templates.listed(it["Action"])}
    assert actions & checks.iam_actions_of_the_code() == {"ec2:DescribeInstances"}


def test_each_event_source_can_be_turned_off():
    for parameter, rule in [("ApiCallEvents", "ApiCallRule"), ("StateChangeEvents", "StateChangeRule"), ("Sweep", "SweepRule")]:
        assert templates.resources(**{parameter: "on"})[rule]["Properties"]["State"] == "ENABLED"
        assert templates.resources(**{parameter: "off"})[rule]["Properties"]["State"] == "DISABLED"
    assert "NoSweepAlarm" not in templates.resources(Sweep="off")
    assert templates.resources(StateChangeEvents="off")["StateChangeSource"]["Properties"]["Enabled"] is False


def test_every_parameter_is_described_grouped_and_used():
    raw = sam.raw()
    groups = raw["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(raw["Parameters"])
    body = str({key: raw[key] for key in ("Conditions", "Resources")})
    for name, parameter in raw["Parameters"].items():
        assert len(parameter["Description"]) > 20 and "Default" in parameter, name
        assert {"AllowedValues", "AllowedPattern", "MinValue"} & parameter.keys(), name
        assert f"'Ref': '{name}'" in body, f"{name} is not used"


def seeded(change):
    template = copy.deepcopy(sam.raw())
    change(template["Resources"])
    return template


def at(resources, name):
    return resources[name]["Properties"]


SEEDED_FAULTS = {
    "wrong runtime": lambda it: at(it, "Function").update(Runtime="provided.al2"),
    "runtime that does not exist": lambda it: at(it, "Function").update(Runtime="provided.al3023"),
    "wrong handler": lambda it: at(it, "Function").update(Handler="main"),
    "typo in an action": lambda it: at(it, "FunctionRole")["Policies"][0]["PolicyDocument"]["Statement"][0].update(Action="ec2:DescribeInstance"),
    "wildcard in an action": lambda it: at(it, "FunctionRole")["Policies"][0]["PolicyDocument"]["Statement"][0].update(Action="ec2:Describe*"),
    "every resource where an ARN belongs": lambda it: at(it, "FunctionRole")["Policies"][3]["PolicyDocument"]["Statement"][0].update(Resource="*"),
    "write without its condition": lambda it: at(it, "FunctionRole")["Policies"][1]["Fn::If"][1]["PolicyDocument"]["Statement"][0].pop("Condition"),
    "write on every resource": lambda it: at(it, "FunctionRole")["Policies"][1]["Fn::If"][1]["PolicyDocument"]["Statement"][0].update(Resource="*"),
    "missing queue policy": lambda it: it.pop("StateChangeQueuePolicy"),
    "missing policy of the dead-letter queue": lambda it: it.pop("DeadLetterQueuePolicy"),
    "queue open to all rules": lambda it: at(it, "StateChangeQueuePolicy")["PolicyDocument"]["Statement"][0].pop("Condition"),
    "missing permission to invoke": lambda it: it.pop("ApiCallPermission"),
    "rule without a dead-letter queue": lambda it: at(it, "ApiCallRule")["Targets"][0].pop("DeadLetterConfig"),
    "function without a dead-letter queue": lambda it: at(it, "Function").pop("DeadLetterQueue"),
    "queue without a dead-letter queue": lambda it: at(it, "StateChangeQueue").pop("RedrivePolicy"),
    "visibility shorter than the function": lambda it: at(it, "StateChangeQueue").update(VisibilityTimeout=60),
    "all of a batch fails together": lambda it: at(it, "StateChangeSource").pop("FunctionResponseTypes"),
    "log kept for ever": lambda it: at(it, "LogGroup").pop("RetentionInDays"),
    "queue not encrypted": lambda it: at(it, "DeadLetterQueue").pop("SqsManagedSseEnabled"),
    "dead letters deleted with the stack": lambda it: it["DeadLetterQueue"].pop("DeletionPolicy"),
    "dead letters kept for four days": lambda it: at(it, "DeadLetterQueue").pop("MessageRetentionPeriod"),
    "property that does not exist": lambda it: at(it, "StateChangeQueue").update(VisibilityTimeOut=360),
    "reference to nothing": lambda it: at(it, "AlarmTopicPolicy").update(Topics=[{"Ref": "Topic"}]),
}


@pytest.mark.parametrize("fault", SEEDED_FAULTS)
def test_a_seeded_fault_is_found(fault):
    try:
        found = checks.findings(seeded(SEEDED_FAULTS[fault]))
    except InvalidDocumentException as refusal:
        found = [refusal.message]
    assert found, f"no check finds: {fault}"
