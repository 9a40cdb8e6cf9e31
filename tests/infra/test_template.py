"""The SAM template, as text and as CloudFormation would see it."""

import copy
import json
import os
import pathlib
import subprocess
import sys

import checks
import package
import parameters
import pytest
import sam
import template as templates
from conftest import elf

BIN = pathlib.Path(sys.executable).parent


def test_sam_validates_it():
    command = [BIN / "sam", "validate", "--lint", "--template", sam.TEMPLATE]
    environment = {**os.environ, "AWS_DEFAULT_REGION": "us-east-1", "SAM_CLI_TELEMETRY": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


TOPIC = "arn:aws:sns:us-east-1:111122223333:security"
KEY = "arn:aws:kms:us-east-1:111122223333:key/1"
BOUNDARY = "arn:aws:iam::111122223333:policy/boundary"

HUB = "arn:aws:events:eu-west-1:444455556666:event-bus/imds-enforcer-hub"

# What a deployment must say.
DEFAULT = {"EnforceSince": "all"}

# What is off by default, on.
EVERYTHING = {
    "EnforceSince": "2026-11-02",
    "GraceDays": 14,
    "SweepLimit": 100,
    "WatchRefusals": "1",
    "ResultBus": "security",
    "ResultEmail": "security@example.com",
    "Dashboard": "on",
}


def deployed(**parameters):
    """The resources of a deployment with these parameters."""
    return templates.resources(**{**DEFAULT, **parameters})


@pytest.mark.parametrize("parameters", [DEFAULT, EVERYTHING], ids=["default", "everything on"])
def test_nothing_is_wrong_with_it(parameters):
    assert checks.findings(sam.raw(), **parameters) == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"Mode": "observe"},
        {"Mode": "observe", **EVERYTHING},
        {"KmsKeyArn": KEY, **EVERYTHING},
        {"WatchRefusals": "24"},
        {"GraceDays": 14},
        {"ResultBusArn": "arn:aws:events:us-east-1:444455556666:event-bus/security"},
        {"HubBusArn": HUB},
        {"HubBusArn": HUB, "Mode": "observe", "PermissionsBoundaryArn": BOUNDARY},
        {"KmsKeyArn": KEY},
        {"AlarmTopicArn": TOPIC, "PermissionsBoundaryArn": BOUNDARY},
        {"ApiCallEvents": "off", "StateChangeEvents": "off", "Sweep": "off"},
        {"AlarmEmail": "security@example.com", "ReservedConcurrency": 5, "Architecture": "arm64"},
    ],
    ids=lambda parameters: ",".join(parameters),
)
def test_nothing_is_wrong_with_it_in_another_configuration(parameters):
    resources = deployed(**parameters)
    own_topic = [parameters["AlarmTopicArn"]] if "AlarmTopicArn" in parameters else []
    arguments = {checks.alarms_are_alike: own_topic}
    assert [finding for check in checks.CHECKS for finding in check(resources, *arguments.get(check, []))] == []


@pytest.mark.parametrize("parameters", [DEFAULT, EVERYTHING], ids=["default", "everything on"])
def test_in_observe_mode_the_role_cannot_write(parameters):
    role = deployed(Mode="observe", **parameters)["FunctionRole"]
    actions = {action for it in templates.statements(role) for action in templates.listed(it["Action"])}
    assert {action for action in actions if action.startswith("ec2:")} == {"ec2:DescribeInstances"}
    assert actions - checks.OF_LAMBDA <= {"ec2:DescribeInstances", "cloudwatch:GetMetricData", "events:PutEvents"}


def test_a_bus_of_another_account_is_only_sent_to():
    bus = "arn:aws:events:us-east-1:444455556666:event-bus/security"
    resources = deployed(ResultBusArn=bus, ResultEmail="security@example.com")
    assert not [name for name in resources if name.startswith("Result")]
    assert resources["Function"]["Properties"]["Environment"]["Variables"]["IMDS_RESULT_BUS"] == bus
    [statement] = [it for it in templates.statements(resources["FunctionRole"]) if it["Action"] == "events:PutEvents"]
    assert statement["Resource"] == bus


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_hub_gets_results_and_the_states_of_alarms(mode):
    resources = deployed(HubBusArn=HUB, ResultEmail="security@example.com", Mode=mode)
    assert not [name for name in resources if name.startswith("Result")]
    assert resources["Function"]["Properties"]["Environment"]["Variables"]["IMDS_RESULT_BUS"] == HUB
    [statement] = [it for it in templates.statements(resources["FunctionRole"]) if it["Action"] == "events:PutEvents"]
    assert statement["Resource"] == HUB
    assert resources["AlarmStateRule"]["Properties"]["Targets"][0]["Arn"] == HUB
    assert not [name for name in deployed(ResultBusArn=HUB) if name.startswith("AlarmState")]


@pytest.mark.parametrize("other", [{"ResultBus": "security"}, {"ResultBusArn": HUB}], ids=",".join)
def test_a_hub_beside_another_bus_is_refused(other):
    values = {**DEFAULT, "HubBusArn": HUB}
    assert parameters.refusals(sam.raw(), values) == []
    [refusal] = parameters.refusals(sam.raw(), {**values, **other})
    assert "HubBusArn takes the place of ResultBus and ResultBusArn" in refusal


def test_an_own_topic_takes_the_place_of_one_that_is_created():
    resources = deployed(AlarmTopicArn=TOPIC, AlarmEmail="security@example.com")
    assert not [name for name in resources if name.startswith("AlarmTopic")]
    assert resources["AlarmSubscription"]["Properties"]["TopicArn"] == TOPIC
    assert resources["ErrorAlarm"]["Properties"]["AlarmActions"] == [TOPIC]


def test_a_permissions_boundary_bounds_the_role():
    role = deployed(PermissionsBoundaryArn=BOUNDARY)["FunctionRole"]
    assert role["Properties"]["PermissionsBoundary"] == BOUNDARY
    assert "PermissionsBoundary" not in deployed()["FunctionRole"]["Properties"]


def test_the_dashboard_shows_metrics_that_the_function_has():
    resources = deployed(**EVERYTHING)
    body = json.loads(resources["Board"]["Properties"]["DashboardBody"])
    source = (templates.ROOT / "src/report/metrics.rs").read_text()
    shown = [metric[1] for widget in body["widgets"] for metric in widget["properties"].get("metrics", []) if metric[0] == "ImdsEnforcer"]
    assert len(shown) > 10
    alarms = [it["Properties"] for it in checks.of_type(resources, "AWS::CloudWatch::Alarm").values()]
    watched = [it["MetricName"] for it in alarms if it.get("Namespace") == "ImdsEnforcer"]
    assert sorted(watched) == ["InstancesRefused", "InstancesRefusingCalls", "ResultsUnpublished", "TimeToEnforce"]
    for name in [*shown, *watched]:
        assert f'"{name}"' in source, f"the function has no metric {name}"
    for alarm in alarms:
        if alarm.get("Namespace") == "ImdsEnforcer":
            assert [it["Name"] for it in alarm["Dimensions"]] == ["FunctionName", "Mode"]


def test_each_event_source_can_be_turned_off():
    rules = [("ApiCallEvents", "LaunchRule"), ("ApiCallEvents", "ChangeRule"), ("StateChangeEvents", "StateChangeRule"), ("Sweep", "SweepRule")]
    for parameter, rule in rules:
        assert deployed(**{parameter: "on"})[rule]["Properties"]["State"] == "ENABLED"
        assert deployed(**{parameter: "off"})[rule]["Properties"]["State"] == "DISABLED"
    assert "NoSweepAlarm" not in deployed(Sweep="off")


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_the_template_of_a_package_allows_the_architecture_of_its_binary_alone(architecture):
    template = sam.of_package(package.pack(elf(architecture)))
    allowed = template["Parameters"].pop("Architecture")
    assert (allowed["AllowedValues"], allowed["Default"]) == ([architecture], architecture)
    assert allowed["ConstraintDescription"].startswith(f"must be {architecture}, ")
    written = sam.raw()
    assert set(written["Parameters"].pop("Architecture")["AllowedValues"]) == {"x86_64", "arm64"}
    assert template == written
    assert templates.resources(sam.of_package(package.pack(elf(architecture))), **DEFAULT)["Function"]["Properties"]["Architectures"] == [architecture]


def test_every_parameter_is_described_grouped_and_used():
    raw = sam.raw()
    groups = raw["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(raw["Parameters"])
    body = str({key: raw[key] for key in ("Conditions", "Resources")})
    for name, parameter in raw["Parameters"].items():
        assert len(parameter["Description"]) > 20, name
        assert ("Default" in parameter) == (name != "EnforceSince"), name
        assert {"AllowedValues", "AllowedPattern", "MinValue"} & parameter.keys(), name
        assert f"'Ref': '{name}'" in body, f"{name} is not used"


def seeded(change):
    template = copy.deepcopy(sam.raw())
    change(template["Resources"])
    return template


def at(resources, name):
    return resources[name]["Properties"]


def policy(resources, name):
    """The first statement of an inline policy of the role."""
    return policy_of(resources, name)[0]


def policy_of(resources, name):
    """The statements of an inline policy of the role, which may depend on a condition."""
    policies = [it["Fn::If"][1] if "Fn::If" in it else it for it in at(resources, "FunctionRole")["Policies"]]
    return next(it for it in policies if it["PolicyName"] == name)["PolicyDocument"]["Statement"]


# By the check that must find them; other checks may, too.
SEEDED_FAULTS = {
    "the_function_is_what_the_build_makes": {
        "wrong runtime": lambda it: at(it, "Function").update(Runtime="provided.al2"),
        "runtime that does not exist": lambda it: at(it, "Function").update(Runtime="provided.al3023"),
        "wrong handler": lambda it: at(it, "Function").update(Handler="main"),
    },
    "the_role_may_do_what_the_code_calls_and_nothing_else": {
        "typo in an action": lambda it: at(it, "FunctionRole")["Policies"][0]["PolicyDocument"]["Statement"][0].update(Action="ec2:DescribeInstance"),
        "wildcard in an action": lambda it: at(it, "FunctionRole")["Policies"][0]["PolicyDocument"]["Statement"][0].update(Action="ec2:Describe*"),
        "every resource where an ARN belongs": lambda it: at(it, "FunctionRole")["Policies"][3]["PolicyDocument"]["Statement"][0].update(Resource="*"),
        "queue without a failed event's permission": lambda it: policy_of(it, "Queues").pop(1),
        "results to every bus": lambda it: policy(it, "PublishResults").update(Resource="*"),
        "sweep that spares without its permission": lambda it: policy(it, "ReadMetrics").update(Action="cloudwatch:ListMetrics"),
    },
    "the_role_can_only_tighten": {
        "write without its condition": lambda it: at(it, "FunctionRole")["Policies"][1]["Fn::If"][1]["PolicyDocument"]["Statement"][0].pop("Condition"),
        "write on every resource": lambda it: at(it, "FunctionRole")["Policies"][1]["Fn::If"][1]["PolicyDocument"]["Statement"][0].update(Resource="*"),
        "endpoints that it closes": lambda it: policy_of(it, "RequireTokens").pop(1),
        "closed endpoints that it opens": lambda it: policy_of(it, "RequireTokens").pop(2),
        "denial by what EC2 may leave out": lambda it: policy_of(it, "RequireTokens")[2].update(
            Condition={"StringNotEquals": {"ec2:MetadataHttpEndpoint": "enabled"}}
        ),
        "denial of another Region's instances": lambda it: policy_of(it, "RequireTokens")[1].update(Resource="arn:x:ec2:y:1:instance/*"),
    },
    "every_queue_and_topic_admits_only_these_rules": {
        "missing queue policy": lambda it: it.pop("LaunchQueuePolicy"),
        "missing policy of the dead-letter queue": lambda it: it.pop("DeadLetterQueuePolicy"),
        "queue open to all rules": lambda it: at(it, "LaunchQueuePolicy")["PolicyDocument"]["Statement"][0].pop("Condition"),
        "missing permission to invoke": lambda it: it.pop("ChangePermission"),
        "queue open to a rule that does not send to it": lambda it: at(it, "LaunchQueuePolicy")["PolicyDocument"]["Statement"][0]["Condition"]["ArnEquals"][
            "aws:SourceArn"
        ].append({"Fn::GetAtt": "SweepRule.Arn"}),
        "queue closed to launches": lambda it: at(it, "LaunchQueuePolicy")["PolicyDocument"]["Statement"][0]["Condition"][
            "ArnEquals"
        ].update({"aws:SourceArn": [{"Fn::GetAtt": "StateChangeRule.Arn"}]}),
        "topic of results open to all rules": lambda it: at(it, "ResultTopicPolicy")["PolicyDocument"]["Statement"][0].pop("Condition"),
    },
    "nothing_is_lost": {
        "rule without a dead-letter queue": lambda it: at(it, "ChangeRule")["Targets"][0].pop("DeadLetterConfig"),
        "function without a dead-letter queue": lambda it: at(it, "Function").pop("DeadLetterQueue"),
        "queue without a dead-letter queue": lambda it: at(it, "LaunchQueue").pop("RedrivePolicy"),
        "dead letters of the function that wait for somebody": lambda it: at(it, "Function").update(
            DeadLetterQueue={"Type": "SQS", "TargetArn": {"Fn::GetAtt": "DeadLetterQueue.Arn"}}
        ),
        "queue that refuses a large event": lambda it: at(it, "LaunchQueue").update(MaximumMessageSize=262144),
        "all of a batch fails together": lambda it: at(it, "LaunchSource").pop("FunctionResponseTypes"),
        "messages lost": lambda it: at(it, "ResultRule")["Targets"][0].pop("DeadLetterConfig"),
    },
    "the_role_sends_to_the_queue_of_launches_alone": {
        "role that may fill the dead-letter queue": lambda it: policy_of(it, "Queues")[1].update(Resource={"Fn::GetAtt": "DeadLetterQueue.Arn"}),
    },
    "bursts_share_the_queue_and_changes_do_not_wait": {
        "launches one by one": lambda it: at(it, "LaunchRule")["Targets"][0].update(Arn={"Fn::GetAtt": "Function.Arn"}),
        "changes behind launches": lambda it: at(it, "ChangeRule")["Targets"][0].update(Arn={"Fn::GetAtt": "LaunchQueue.Arn"}),
        "changes in both lanes": lambda it: at(it, "LaunchRule")["EventPattern"]["detail"]["eventName"].append("ModifyInstanceMetadataOptions"),
        "changes in neither lane": lambda it: at(it, "ChangeRule")["EventPattern"]["detail"].update(eventName=["RunInstances"]),
        "sweep in the queue": lambda it: at(it, "SweepRule")["Targets"][0].update(Arn={"Fn::GetAtt": "LaunchQueue.Arn"}),
    },
    "times_fit_one_another": {
        "visibility that leaves the window out": lambda it: at(it, "LaunchQueue").update(VisibilityTimeout=360),
        "receives that end in minutes": lambda it: at(it, "LaunchQueue")["RedrivePolicy"].update(maxReceiveCount=5),
        "receives that go on for days": lambda it: at(it, "LaunchQueue")["RedrivePolicy"].update(maxReceiveCount=600),
        "no batching window": lambda it: at(it, "LaunchSource").update(MaximumBatchingWindowInSeconds=0),
        "launches that wait for others": lambda it: at(it, "LaunchSource").update(MaximumBatchingWindowInSeconds=60),
        "visibility shorter than the function": lambda it: at(it, "LaunchQueue").update(VisibilityTimeout=60),
        "alarm on every first failure": lambda it: at(it, "OldestMessageAlarm").update(Threshold=300),
        "alarm that no failure reaches": lambda it: at(it, "OldestMessageAlarm").update(Threshold=900),
    },
    "what_is_queued_is_handled_whatever_is_off": {
        "redrive that waits unseen": lambda it: at(it, "LaunchSource").update(Enabled=False),
    },
    "guard": {
        "log kept for ever": lambda it: at(it, "LogGroup").pop("RetentionInDays"),
        "queue not encrypted": lambda it: at(it, "DeadLetterQueue").pop("SqsManagedSseEnabled"),
        "dead letters deleted with the stack": lambda it: it["DeadLetterQueue"].pop("DeletionPolicy"),
        "dead letters kept for four days": lambda it: at(it, "DeadLetterQueue").pop("MessageRetentionPeriod"),
    },
    "cfn-lint E3002": {
        "property that does not exist": lambda it: at(it, "LaunchQueue").update(VisibilityTimeOut=360),
    },
    "results_can_only_be_the_functions_own": {
        "results from any source": lambda it: policy(it, "PublishResults").pop("Condition"),
    },
    "messages_are_for_people": {
        "messages for every sweep": lambda it: at(it, "ResultRule")["EventPattern"]["detail-type"].append("IMDS Sweep Digest"),
        "messages for everything": lambda it: at(it, "ResultRule")["EventPattern"].pop("detail-type"),
        "message without its quotes": lambda it: at(it, "ResultRule")["Targets"][0]["InputTransformer"].update(InputTemplate="<what>"),
    },
    "only_this_stacks_alarms_go_to_the_hub": {
        "alarms of others": lambda it: at(it, "AlarmStateRule")["EventPattern"].pop("resources"),
        "alarms of everything in the stack": lambda it: at(it, "AlarmStateRule")["EventPattern"]["detail"].pop("configuration"),
        "new alarms, without data": lambda it: at(it, "AlarmStateRule")["EventPattern"]["detail"].pop("$or"),
        "role that may send to any bus": lambda it: at(it, "AlarmStateRole")["Policies"][0]["PolicyDocument"]["Statement"][0].update(Resource="*"),
        "role that may do more": lambda it: at(it, "AlarmStateRole")["Policies"][0]["PolicyDocument"]["Statement"][0].update(Action="events:*"),
        "role for the rules of any account": lambda it: at(it, "AlarmStateRole")["AssumeRolePolicyDocument"]["Statement"][0].pop("Condition"),
        "alarms of a stack whose name begins the same": lambda it: at(it, "AlarmStateRule")["EventPattern"]["detail"]["$or"][0].pop("alarmName"),
        "end of a loss that is the next loss": lambda it: at(it, "AlarmStateRule")["EventPattern"]["detail"]["$or"][1].pop("alarmName"),
        "states of alarms to another bus": lambda it: at(it, "AlarmStateRule")["Targets"][0].update(Arn={"Ref": "ResultBusArn"}),
    },
    "what_fails_is_tried_again": {
        "failures of the function tried once": lambda it: at(it, "Function")["EventInvokeConfig"].update(MaximumRetryAttempts=0),
        "failures of the function tried as Lambda likes": lambda it: at(it, "Function").pop("EventInvokeConfig"),
        "rule that gives up": lambda it: at(it, "ChangeRule")["Targets"][0]["RetryPolicy"].update(MaximumRetryAttempts=0),
        "rule that delivers as EventBridge likes": lambda it: at(it, "StateChangeRule")["Targets"][0].pop("RetryPolicy"),
        "sweep that is delivered after the next": lambda it: at(it, "SweepRule")["Targets"][0]["RetryPolicy"].update(MaximumEventAgeInSeconds=86400),
    },
    "the_queue_leaves_executions_to_changes": {
        "queue that takes all executions": lambda it: at(it, "LaunchSource").pop("ScalingConfig"),
        "queue that takes more executions": lambda it: at(it, "LaunchSource")["ScalingConfig"].update(MaximumConcurrency=10),
    },
    "alarms_are_alike": {
        "alarm without a topic": lambda it: at(it, "RefusedAlarm").pop("AlarmActions"),
        "alarm that fires without data": lambda it: at(it, "ErrorAlarm").update(TreatMissingData="breaching"),
        "alarm on a new stack": lambda it: at(it, "NoSweepAlarm").update(TreatMissingData="breaching"),
        "alarm on every sweep": lambda it: at(it, "NoSweepAlarm").update(ComparisonOperator="GreaterThanThreshold"),
    },
    "a_missed_sweep_is_found_in_hours_of_the_stack_alone": {
        "sweep that never ran unseen": lambda it: at(it, "NoSweepAlarm")["Metrics"][0].update(Expression="SUM([sweeps])"),
        "queue that nobody polls": lambda it: metric_of(it, "NoSweepAlarm", 2).update(Dimensions=[{"Name": "QueueName", "Value": {"Fn::GetAtt": "DeadLetterQueue.QueueName"}}]),
        "deliveries of another rule": lambda it: metric_of(it, "NoSweepAlarm", 1).update(Dimensions=[{"Name": "RuleName", "Value": {"Ref": "LaunchRule"}}]),
    },
    "every_loss_is_found": {
        "no alarm on losses": lambda it: it.pop("LostEventAlarm"),
        "rule whose losses nobody sees": lambda it: at(it, "LostEventAlarm")["Metrics"].pop(2),
        "losses of the function that nobody sees": lambda it: at(it, "LostEventAlarm")["Metrics"].pop(5),
        "losses of messages that nobody sees": lambda it: at(it, "LostEventAlarm")["Metrics"].pop(6),
        "rule of a bus by its reference": lambda it: at(it, "LostEventAlarm")["Metrics"][6]["Fn::If"][1]["MetricStat"]["Metric"]["Dimensions"][1].update(
            Value={"Ref": "ResultRule"}
        ),
        "deliveries that are tried again": lambda it: metric_of(it, "LostEventAlarm", 1).update(MetricName="RetryInvocationAttempts"),
        "losses of one rule": lambda it: at(it, "LostEventAlarm")["Metrics"][0].update(Expression="launches + 0 * changes"),
    },
    "a_runaway_is_found": {
        "no alarm on a runaway": lambda it: it.pop("RunawayAlarm"),
        "runaway that nothing reaches": lambda it: at(it, "RunawayAlarm").update(Threshold=50000),
        "alarm on a busy hour": lambda it: at(it, "RunawayAlarm").update(Threshold=5),
        "changes that count as launches do": lambda it: at(it, "RunawayAlarm")["Metrics"][0].update(Expression="invocations"),
    },
    "a_fault_that_lasts_is_told_once": {
        "alarm that comes back every hour": lambda it: [at(it, "ErrorAlarm").pop("DatapointsToAlarm"), at(it, "ErrorAlarm").update(EvaluationPeriods=1)],
        "alarm that is forgotten before the next sweep": lambda it: at(it, "UnpublishedAlarm").update(EvaluationPeriods=12),
    },
    "cfn-lint E1020": {
        "reference to nothing": lambda it: at(it, "AlarmTopicPolicy").update(Topics=[{"Ref": "Topic"}]),
    },
}


def metric_of(resources, alarm, number):
    """The metric of one of an alarm's several, as it is written."""
    return at(resources, alarm)["Metrics"][number]["MetricStat"]["Metric"]


def by_check(faults):
    return [pytest.param(check, fault, id=fault) for check, seeds in faults.items() for fault in seeds]


@pytest.mark.parametrize(("check", "fault"), by_check(SEEDED_FAULTS))
def test_a_seeded_fault_is_found_by_its_check(check, fault):
    template = seeded(SEEDED_FAULTS[check][fault])
    if check.startswith("cfn-lint "):
        assert any(it.startswith(f"{check}: ") for it in checks.lint(template))
    else:
        [found_by] = [it for it in checks.CHECKS if it.__name__ == check]
        parameters = DEFAULT | {"HubBusArn": HUB} if "hub" in check else EVERYTHING
        assert list(found_by(templates.resources(template, **parameters))), f"{check} does not find: {fault}"


OF_THE_HUB = {
    "every_loss_is_found": lambda it: at(it, "LostEventAlarm")["Metrics"][7]["Fn::If"][1]["MetricStat"]["Metric"].update(
        MetricName="InvocationsFailedToBeSentToDlq"
    ),
    "nothing_is_lost": lambda it: at(it, "AlarmStateRule")["Targets"][0].update(DeadLetterConfig={"Arn": {"Fn::GetAtt": "DeadLetterQueue.Arn"}}),
}


@pytest.mark.parametrize("check", OF_THE_HUB)
def test_a_hub_that_refuses_states_of_alarms_without_end_or_unseen_is_found(check):
    [found_by] = [it for it in checks.CHECKS if it.__name__ == check]
    parameters = DEFAULT | {"HubBusArn": HUB}
    assert not list(found_by(deployed(**parameters)))
    assert list(found_by(templates.resources(seeded(OF_THE_HUB[check]), **parameters)))


def test_every_check_finds_a_seeded_fault():
    assert {it.__name__ for it in checks.CHECKS} <= SEEDED_FAULTS.keys()
    assert {it.__name__ for it in checks.CHECKS_OF_PARAMETERS} == SEEDED_FAULTS_OF_PARAMETERS.keys()


SEEDED_FAULTS_OF_PARAMETERS = {
    "whoever_deploys_says_since_when": {
        "whole Region by default": lambda it: it["Parameters"]["EnforceSince"].update(Default="all"),
        "a day by default": lambda it: it["Parameters"]["EnforceSince"].update(Default="2026-11-02"),
        "any text as a day": lambda it: it["Parameters"]["EnforceSince"].update(AllowedPattern=".*"),
        "days that there are not": lambda it: it["Parameters"]["EnforceSince"].update(AllowedPattern=r"^(all|\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]))$"),
        "no leap day": lambda it: it["Parameters"]["EnforceSince"].update(
            AllowedPattern=it["Parameters"]["EnforceSince"]["AllowedPattern"].replace("02-(0[1-9]|[12]\\d)", "02-(0[1-9]|1\\d|2[0-8])")
        ),
        "no whole Region": lambda it: it["Parameters"]["EnforceSince"].update(AllowedPattern=r"^\d{4}-\d{2}-\d{2}$"),
    },
    "a_reservation_is_more_than_the_queue_takes": {
        "no rule of reservations": lambda it: it.pop("Rules"),
        "reservation of two": lambda it: it["Rules"]["ReservedConcurrencyIsEnough"]["Assertions"][0]["Assert"]["Fn::Not"][0]["Fn::Contains"][0].remove("2"),
        "queue that takes more than the rule says": lambda it: at(it["Resources"], "LaunchSource")["ScalingConfig"].update(MaximumConcurrency=3),
    },
    "results_go_one_way": {
        "hub beside another bus": lambda it: it["Rules"].pop("ResultsGoOneWay"),
        "hub beside a bus of an ARN": lambda it: it["Rules"]["ResultsGoOneWay"]["Assertions"][0]["Assert"]["Fn::Or"][1]["Fn::And"].pop(),
    },
    "an_alarm_lasts_until_the_next_sweep": {
        "alarm within the schedule's period": lambda it: it["Parameters"]["SweepAlarmHours"].update(MinValue=1),
        "alarm before the first sweep": lambda it: it["Parameters"]["SweepAlarmHours"].update(MinValue=2),
        "sweep each week that has no alarm": lambda it: it["Parameters"]["SweepAlarmHours"].update(MaxValue=24),
        "more than CloudWatch looks back for": lambda it: it["Parameters"]["SweepAlarmHours"].update(MaxValue=720),
    },
}


@pytest.mark.parametrize(("check", "fault"), by_check(SEEDED_FAULTS_OF_PARAMETERS))
def test_a_seeded_fault_of_a_parameter_is_found_by_its_check(check, fault):
    template = copy.deepcopy(sam.raw())
    SEEDED_FAULTS_OF_PARAMETERS[check][fault](template)
    [found_by] = [it for it in checks.CHECKS_OF_PARAMETERS if it.__name__ == check]
    assert list(found_by(template)), f"{check} does not find: {fault}"


@pytest.mark.parametrize(
    "change",
    [
        lambda it: policy(it, "Key").update(Action=["kms:Decrypt"]),
        lambda it: policy(it, "Key").update(Action=["kms:Decrypt", "kms:GenerateDataKey", "kms:ScheduleKeyDeletion"]),
        lambda it: policy(it, "Key").update(Resource="arn:aws:kms:us-east-1:111122223333:key/*"),
    ],
    ids=["without sending", "with more", "every key"],
)
def test_a_fault_of_what_the_role_may_do_with_a_key_is_found(change):
    resources = templates.resources(seeded(change), KmsKeyArn=KEY, **DEFAULT)
    assert list(checks.the_role_may_do_what_the_code_calls_and_nothing_else(resources))


def test_a_deployment_that_does_not_say_since_when_is_refused():
    with pytest.raises(AssertionError, match="EnforceSince"):
        templates.resources()


def test_what_a_deployment_says_reaches_the_function():
    variables = deployed(**EVERYTHING)["Function"]["Properties"]["Environment"]["Variables"]
    assert {name: variables[name] for name in sorted(variables)} == {
        "IMDS_ENFORCE_SINCE": "2026-11-02",
        "IMDS_EXEMPTION_MAX_DAYS": "90",
        "IMDS_EXEMPTION_TAG": "imds-exemption",
        "IMDS_GRACE_DAYS": "14",
        "IMDS_MODE": "enforce",
        "IMDS_RESULT_BUS": "${ResultEventBus}",
        "IMDS_SWEEP_LIMIT": "100",
        "IMDS_WATCH_REFUSALS": "1",
    }


@pytest.mark.parametrize(
    ("parameters", "alarms"),
    [
        ({}, set()),
        ({"ResultBus": "security"}, {"UnpublishedAlarm"}),
        ({"ResultBusArn": "arn:aws:events:us-east-1:444455556666:event-bus/security"}, {"UnpublishedAlarm"}),
        ({"HubBusArn": HUB}, {"UnpublishedAlarm"}),
        ({"WatchRefusals": "24"}, {"RefusingCallsAlarm"}),
    ],
    ids=lambda it: ",".join(it) if isinstance(it, dict) else "",
)
def test_there_is_an_alarm_on_what_is_turned_on(parameters, alarms):
    optional = {"UnpublishedAlarm", "RefusingCallsAlarm"}
    assert optional & deployed(**parameters).keys() == alarms


MANUAL = (templates.ROOT / "infra/README.md").read_text()


def in_words(alarm):
    """The last two columns of the manual's table of alarms, for an alarm as it is written."""

    def word(value):
        return f"`{value['Ref']}`" if isinstance(value, dict) else f"{value}"

    stats = [it["MetricStat"] for it in alarm.get("Metrics", []) if "MetricStat" in it]
    period, name = (stats[0]["Period"], stats[0]["Stat"]) if stats else (alarm["Period"], alarm["Statistic"])
    periods = alarm["EvaluationPeriods"]
    statistic = f"{name.lower()} of {({60: 'a minute', 300: '5 minutes', 3600: 'an hour'})[period]}"
    value = word(alarm["Threshold"]) + (" seconds" if "Age" in alarm.get("MetricName", "") else "")
    fires = f"{'more' if alarm['ComparisonOperator'] == 'GreaterThanThreshold' else 'less'} than {value}"
    if "DatapointsToAlarm" in alarm:
        minutes = f"{periods * period // 60} minutes" if isinstance(periods, int) else word(periods)
        return statistic, f"{fires}, once in {minutes}"
    times = "three" if periods == 3 else word(periods)
    return statistic, fires if periods == 1 else f"{fires}, {times} times in a row"


def test_the_manual_says_what_each_alarm_fires_at():
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in MANUAL.splitlines() if row.startswith("| `")]
    said = {row[0].split("`")[1]: tuple(row[2:]) for row in rows if len(row) == 4}
    alarms = {name: it["Properties"] for name, it in checks.of_type(sam.raw()["Resources"], "AWS::CloudWatch::Alarm").items()}
    assert {name: said[name] for name in alarms} == {name: in_words(it) for name, it in alarms.items()}


def test_the_manual_names_every_parameter_rule_queue_and_topic():
    raw = sam.raw()
    for name in raw["Parameters"]:
        assert f"`{name}`" in MANUAL, name
    for name, resource in raw["Resources"].items():
        if resource["Type"] in ("AWS::Events::Rule", "AWS::SQS::Queue", "AWS::SNS::Topic", "AWS::Lambda::EventSourceMapping"):
            assert f"`{name}`" in MANUAL, name


def test_the_manual_says_how_long_a_failure_is_tried():
    queue = sam.raw()["Resources"]["LaunchQueue"]["Properties"]
    minutes = queue["VisibilityTimeout"] // 60
    assert (minutes, minutes * queue["RedrivePolicy"]["maxReceiveCount"]) == (6, 6 * 60)
    assert "What fails is tried every six minutes, for six hours" in MANUAL
