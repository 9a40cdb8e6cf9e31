"""The SAM template, as text and as CloudFormation would see it."""

import copy
import json
import os
import pathlib
import subprocess
import sys

import checks
import package
import pytest
import sam
import template as templates
from conftest import elf
from samtranslator.model.exceptions import InvalidDocumentException

BIN = pathlib.Path(sys.executable).parent


def test_sam_validates_it():
    command = [BIN / "sam", "validate", "--lint", "--template", sam.TEMPLATE]
    environment = {**os.environ, "AWS_DEFAULT_REGION": "us-east-1", "SAM_CLI_TELEMETRY": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


TOPIC = "arn:aws:sns:us-east-1:111122223333:security"
BOUNDARY = "arn:aws:iam::111122223333:policy/boundary"

# What is off by default, on.
EVERYTHING = {"ExemptionTag": "imds-exemption", "SweepGraceDays": 14, "ResultBus": "security", "ResultEmail": "security@example.com"}


@pytest.mark.parametrize("parameters", [{}, EVERYTHING], ids=["default", "everything on"])
def test_nothing_is_wrong_with_it(parameters):
    assert checks.findings(sam.raw(), **parameters) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"Mode": "observe"},
        {"Mode": "observe", **EVERYTHING},
        {"ResultBusArn": "arn:aws:events:us-east-1:444455556666:event-bus/security"},
        {"KmsKeyArn": "arn:aws:kms:us-east-1:111122223333:key/1"},
        {"AlarmTopicArn": TOPIC, "PermissionsBoundaryArn": BOUNDARY},
        {"ApiCallEvents": "off", "StateChangeEvents": "off", "Sweep": "off"},
        {"AlarmEmail": "security@example.com", "ReservedConcurrency": 5, "Architecture": "arm64"},
    ],
    ids=lambda parameters: ",".join(parameters),
)
def test_nothing_is_wrong_with_it_in_another_configuration(parameters):
    resources = templates.resources(**parameters)
    # A key adds actions of its own, which the function makes no call for.
    left_out = [checks.the_role_may_do_what_the_code_calls_and_nothing_else] if "KmsKeyArn" in parameters else []
    own_topic = [parameters["AlarmTopicArn"]] if "AlarmTopicArn" in parameters else []
    arguments = {checks.alarms_are_alike: own_topic}
    chosen = [it for it in checks.CHECKS if it not in left_out]
    assert [finding for check in chosen for finding in check(resources, *arguments.get(check, []))] == []


@pytest.mark.parametrize("parameters", [{}, EVERYTHING], ids=["default", "everything on"])
def test_in_observe_mode_the_role_cannot_write(parameters):
    role = templates.resources(Mode="observe", **parameters)["FunctionRole"]
    actions = {action for it in templates.statements(role) for action in templates.listed(it["Action"])}
    assert {action for action in actions if action.startswith("ec2:")} == {"ec2:DescribeInstances"}
    assert actions - checks.OF_LAMBDA <= {"ec2:DescribeInstances", "cloudwatch:GetMetricData", "events:PutEvents"}


def test_a_bus_of_another_account_is_only_sent_to():
    bus = "arn:aws:events:us-east-1:444455556666:event-bus/security"
    resources = templates.resources(ResultBusArn=bus, ResultEmail="security@example.com")
    assert not [name for name in resources if name.startswith("Result")]
    assert resources["Function"]["Properties"]["Environment"]["Variables"]["IMDS_RESULT_BUS"] == bus
    [statement] = [it for it in templates.statements(resources["FunctionRole"]) if it["Action"] == "events:PutEvents"]
    assert statement["Resource"] == bus


def test_an_own_topic_takes_the_place_of_one_that_is_created():
    resources = templates.resources(AlarmTopicArn=TOPIC, AlarmEmail="security@example.com")
    assert not [name for name in resources if name.startswith("AlarmTopic")]
    assert resources["AlarmSubscription"]["Properties"]["TopicArn"] == TOPIC
    assert resources["ErrorAlarm"]["Properties"]["AlarmActions"] == [TOPIC]


def test_a_permissions_boundary_bounds_the_role():
    role = templates.resources(PermissionsBoundaryArn=BOUNDARY)["FunctionRole"]
    assert role["Properties"]["PermissionsBoundary"] == BOUNDARY
    assert "PermissionsBoundary" not in templates.resources()["FunctionRole"]["Properties"]


def test_the_dashboard_shows_metrics_that_the_function_has():
    body = json.loads(templates.resources()["Board"]["Properties"]["DashboardBody"])
    source = (templates.ROOT / "src/report/metrics.rs").read_text()
    shown = [metric[1] for widget in body["widgets"] for metric in widget["properties"].get("metrics", []) if metric[0] == "ImdsEnforcer"]
    assert len(shown) > 10
    alarms = [it["Properties"] for it in checks.of_type(templates.resources(), "AWS::CloudWatch::Alarm").values()]
    watched = [it["MetricName"] for it in alarms if it["Namespace"] == "ImdsEnforcer"]
    assert sorted(watched) == ["InstancesRefused", "TimeToEnforce"]
    for name in [*shown, *watched]:
        assert f'"{name}"' in source, f"the function has no metric {name}"
    for alarm in alarms:
        if alarm["Namespace"] == "ImdsEnforcer":
            assert [it["Name"] for it in alarm["Dimensions"]] == ["FunctionName", "Mode"]


def test_each_event_source_can_be_turned_off():
    for parameter, rule in [("ApiCallEvents", "ApiCallRule"), ("StateChangeEvents", "StateChangeRule"), ("Sweep", "SweepRule")]:
        assert templates.resources(**{parameter: "on"})[rule]["Properties"]["State"] == "ENABLED"
        assert templates.resources(**{parameter: "off"})[rule]["Properties"]["State"] == "DISABLED"
    assert "NoSweepAlarm" not in templates.resources(Sweep="off")


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_the_template_of_a_package_allows_the_architecture_of_its_binary_alone(architecture):
    template = sam.of_package(package.pack(elf(architecture)))
    allowed = template["Parameters"].pop("Architecture")
    assert (allowed["AllowedValues"], allowed["Default"]) == ([architecture], architecture)
    assert allowed["ConstraintDescription"].startswith(f"must be {architecture}, ")
    written = sam.raw()
    assert set(written["Parameters"].pop("Architecture")["AllowedValues"]) == {"x86_64", "arm64"}
    assert template == written
    assert templates.resources(sam.of_package(package.pack(elf(architecture))))["Function"]["Properties"]["Architectures"] == [architecture]


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


def policy(resources, name):
    """The statement of an inline policy that depends on a condition."""
    conditional = [it["Fn::If"][1] for it in at(resources, "FunctionRole")["Policies"] if "Fn::If" in it]
    found = next(it for it in conditional if it["PolicyName"] == name)
    return found["PolicyDocument"]["Statement"][0]


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
    "redrive that waits unseen": lambda it: at(it, "StateChangeSource").update(Enabled=False),
    "all of a batch fails together": lambda it: at(it, "StateChangeSource").pop("FunctionResponseTypes"),
    "log kept for ever": lambda it: at(it, "LogGroup").pop("RetentionInDays"),
    "queue not encrypted": lambda it: at(it, "DeadLetterQueue").pop("SqsManagedSseEnabled"),
    "dead letters deleted with the stack": lambda it: it["DeadLetterQueue"].pop("DeletionPolicy"),
    "dead letters kept for four days": lambda it: at(it, "DeadLetterQueue").pop("MessageRetentionPeriod"),
    "property that does not exist": lambda it: at(it, "StateChangeQueue").update(VisibilityTimeOut=360),
    "results from any source": lambda it: policy(it, "PublishResults").pop("Condition"),
    "results to every bus": lambda it: policy(it, "PublishResults").update(Resource="*"),
    "topic of results open to all rules": lambda it: at(it, "ResultTopicPolicy")["PolicyDocument"]["Statement"][0].pop("Condition"),
    "messages lost": lambda it: at(it, "ResultRule")["Targets"][0].pop("DeadLetterConfig"),
    "sweep that spares without its permission": lambda it: policy(it, "CountUse").update(Action="cloudwatch:ListMetrics"),
    "alarm without a topic": lambda it: at(it, "RefusedAlarm").pop("AlarmActions"),
    "alarm that fires without data": lambda it: at(it, "ErrorAlarm").update(TreatMissingData="breaching"),
    "missed sweep without an alarm": lambda it: at(it, "NoSweepAlarm").update(TreatMissingData="notBreaching"),
    "reference to nothing": lambda it: at(it, "AlarmTopicPolicy").update(Topics=[{"Ref": "Topic"}]),
}


@pytest.mark.parametrize("fault", SEEDED_FAULTS)
def test_a_seeded_fault_is_found(fault):
    try:
        found = checks.findings(seeded(SEEDED_FAULTS[fault]), **EVERYTHING)
    except InvalidDocumentException as refusal:
        found = [refusal.message]
    assert found, f"no check finds: {fault}"
