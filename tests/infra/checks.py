"""What the template must hold, each as a check that answers what is wrong.

`findings` runs them all; `test_template.py` shows that the template has none, and that each of a
set of seeded faults has some.
"""

import json
import pathlib
import re

import sam
import template as templates
from cfn_guard_rs import run_checks
from cfnlint.api import lint_all
from template import ROOT, listed, statements

# The actions of the role beside those of the calls: what Lambda does in its name.
OF_LAMBDA = {
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
    "sqs:SendMessage",
}

# What the role does with a key of one's own, for its queues.
OF_A_KEY = {"kms:Decrypt", "kms:GenerateDataKey"}

# Where a wildcard stands because no ARN can: actions that know no resource.
WITHOUT_RESOURCE = {
    "cloudwatch:GetMetricData",
    "ec2:DescribeInstances",
    "xray:PutTraceSegments",
    "xray:PutTelemetryRecords",
}


def iam_actions_of_the_code(file):
    """The list that stands beside the calls in a file of `src/aws/`."""
    source = (ROOT / "src/aws" / file).read_text()
    declared = re.search(r"const IAM_ACTIONS: \[&str; \d+\] = \[(.*?)\];", source, re.DOTALL)
    return set(re.findall(r'"(.+?)"', declared[1]))


def iam_actions_called(resources):
    """Those of the calls that a function with these environment variables makes."""
    variables = properties(resources, "Function")["Environment"]["Variables"]
    actions = iam_actions_of_the_code("ec2.rs")
    if variables["IMDS_MODE"] == "observe":
        actions -= {"ec2:ModifyInstanceMetadataOptions"}
    if variables["IMDS_GRACE_DAYS"] != "0" or variables["IMDS_WATCH_REFUSALS"] != "off":
        actions |= iam_actions_of_the_code("cloudwatch.rs")
    if variables["IMDS_RESULT_BUS"]:
        actions |= iam_actions_of_the_code("eventbridge.rs")
    return actions


def of_type(resources, kind):
    return {name: it for name, it in resources.items() if it["Type"] == kind}


def properties(resources, name):
    return resources.get(name, {}).get("Properties", {})


def lint(template):
    """The errors and warnings of cfn-lint on the transformed template: on the raw one it misses most."""
    text = json.dumps(sam.transformed(template))
    matches = [it for it in lint_all(text) if not it.rule.id.startswith("I")]
    return [f"cfn-lint {it.rule.id}: {it.message}" for it in matches]


def the_role_may_do_what_the_code_calls_and_nothing_else(resources):
    allowed = [it for it in statements(resources["FunctionRole"]) if it["Effect"] == "Allow"]
    actions = {action for it in allowed for action in listed(it["Action"])}
    key = properties(resources, "LaunchQueue").get("KmsMasterKeyId")
    if actions != iam_actions_called(resources) | OF_LAMBDA | (OF_A_KEY if key else set()):
        yield f"the role's actions are {sorted(actions)}"
    for it in allowed:
        if "*" in listed(it["Resource"]) and not set(listed(it["Action"])) <= WITHOUT_RESOURCE:
            yield f"{it['Action']} on every resource"
        if OF_A_KEY & set(listed(it["Action"])) and it["Resource"] != key:
            yield f"{it['Action']} on {it['Resource']}, not on the key of the queues"
        if any("*" in action for action in listed(it["Action"])):
            yield f"{it['Action']} is a wildcard"


def the_role_sends_to_the_queue_of_launches_alone(resources):
    for it in statements(resources["FunctionRole"]):
        if "sqs:SendMessage" in listed(it["Action"]) and it["Resource"] != "${LaunchQueue.Arn}":
            yield f"the role may send to {it['Resource']}"


# What the role's writes are limited to, and what they never do. Denies by what a key is, never by what it
# is not: one that EC2 does not fill must refuse nothing.
WRITES_ONLY = {"StringEquals": {"ec2:Attribute/HttpTokens": "required"}}
NEVER = [
    {"StringEquals": {"ec2:Attribute/HttpEndpoint": "disabled"}},
    {"StringEquals": {"ec2:MetadataHttpEndpoint": "disabled"}},
]


def the_role_can_only_tighten(resources):
    instances = "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:instance/*"
    writes = [it for it in statements(resources["FunctionRole"]) if "ec2:ModifyInstanceMetadataOptions" in listed(it["Action"])]
    for it in writes:
        if it["Resource"] != instances:
            yield f"the write is not limited to {instances}: {it}"
        if it["Effect"] == "Allow" and it.get("Condition") != WRITES_ONLY:
            yield f"the write is not limited to {WRITES_ONLY}: {it}"
    denied = [it.get("Condition") for it in writes if it["Effect"] == "Deny"]
    if writes and denied != NEVER:
        yield f"the writes that are denied are {denied}, not {NEVER}"


def results_can_only_be_the_functions_own(resources):
    # A call holds several events, and so several sources.
    own = {"ForAllValues:StringEquals": {"events:source": "imds-enforcer"}, "Null": {"events:source": "false"}}
    for it in statements(resources["FunctionRole"]):
        if "events:PutEvents" in listed(it["Action"]) and it.get("Condition") != own:
            yield f"events of any source can be sent: {it}"


def the_function_is_what_the_build_makes(resources):
    function = properties(resources, "Function")
    for key, value in [("Runtime", "provided.al2023"), ("Handler", "bootstrap")]:
        if function.get(key) != value:
            yield f"{key} is {function.get(key)}, not {value}"


def times_fit_one_another(resources):
    timeout = properties(resources, "Function").get("Timeout", 0)
    queue = properties(resources, "LaunchQueue")
    visibility = queue.get("VisibilityTimeout", 0)
    window = properties(resources, "LaunchSource").get("MaximumBatchingWindowInSeconds", 0)
    if not 1 <= window <= 2:
        yield f"a launch waits {window} s for others"
    if visibility < 6 * timeout + window:
        yield f"a message is visible again after {visibility} s, less than 6 times the function's {timeout} s and the window's {window} s"
    if not 20 < timeout <= 900:
        yield f"a call of EC2 may take 20 s, and the function {timeout} s"
    tried = visibility * queue.get("RedrivePolicy", {}).get("maxReceiveCount", 0)
    if not 6 * 3600 <= tried <= 7 * 3600:
        yield f"what fails is tried for {tried / 3600:.1f} hours, not for six"
    # From its third receive on, SQS may leave a message out of the age.
    threshold = properties(resources, "OldestMessageAlarm").get("Threshold", 0)
    if not visibility < threshold < 2 * visibility:
        yield f"the alarm on the oldest message, at {threshold} s, is for a first failure, or never sees a second"


def what_fails_is_tried_again(resources):
    """By the function at once, and by each rule as long as EventBridge does; a sweep until the next."""
    configurations = [it["Properties"] for it in of_type(resources, "AWS::Lambda::EventInvokeConfig").values()]
    attempts = {key: it.get(key) for it in configurations for key in ("MaximumRetryAttempts", "MaximumEventAgeInSeconds")}
    if attempts != {"MaximumRetryAttempts": 2, "MaximumEventAgeInSeconds": 21600}:
        yield f"the function tries a failed event again by {attempts}"
    for name, rule in of_type(resources, "AWS::Events::Rule").items():
        expected = {"MaximumEventAgeInSeconds": 3600 if name == "SweepRule" else 86400, "MaximumRetryAttempts": 185}
        for target in rule["Properties"]["Targets"]:
            if target.get("RetryPolicy") != expected:
                yield f"{name} delivers again by {target.get('RetryPolicy')}, not by {expected}"


def the_queue_leaves_executions_to_changes(resources):
    scaling = properties(resources, "LaunchSource").get("ScalingConfig", {})
    if scaling != {"MaximumConcurrency": 2}:
        yield f"the queue takes as many executions as {scaling} says"


def nothing_is_lost(resources):
    dead_letters, launches = "${DeadLetterQueue.Arn}", "${LaunchQueue.Arn}"
    for name, rule in of_type(resources, "AWS::Events::Rule").items():
        for target in rule["Properties"]["Targets"]:
            # What the hub's bus refuses is in no queue: the alarm on the queue would be refused in its turn.
            expected = None if name == "AlarmStateRule" else {"Arn": dead_letters}
            if target.get("DeadLetterConfig") != expected:
                yield f"what {name} can't deliver goes to {target.get('DeadLetterConfig')}, not to {expected}"
    if properties(resources, "Function").get("DeadLetterConfig", {}).get("TargetArn") != launches:
        yield "what the function fails to do at once does not go on in the queue"
    if properties(resources, "LaunchQueue").get("RedrivePolicy", {}).get("deadLetterTargetArn") != dead_letters:
        yield "what the queue can't hand over is lost"
    if properties(resources, "LaunchSource").get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
        yield "one failed message holds up its neighbours"
    for name, queue in of_type(resources, "AWS::SQS::Queue").items():
        if queue["Properties"].get("MaximumMessageSize") != 1048576:
            yield f"{name} refuses the largest event of an asynchronous invocation"


# Where each rule sends to: what comes in bursts shares a queue, and the rest does not wait behind it.
LANES = {
    "LaunchRule": ("${LaunchQueue.Arn}", ["RunInstances"]),
    "StateChangeRule": ("${LaunchQueue.Arn}", None),
    "ChangeRule": ("${Function.Arn}", ["ModifyInstanceMetadataOptions"]),
    "SweepRule": ("${Function.Arn}", None),
}


def bursts_share_the_queue_and_changes_do_not_wait(resources):
    for name, (lane, event_names) in LANES.items():
        rule = properties(resources, name)
        targets = [target["Arn"] for target in rule.get("Targets", [])]
        if targets != [lane]:
            yield f"{name} sends to {targets}, not to {lane}"
        if rule.get("EventPattern", {}).get("detail", {}).get("eventName") != event_names:
            yield f"{name} does not receive {event_names} alone"


def every_queue_and_topic_admits_only_these_rules(resources):
    """Also that each rule is admitted where it sends to, and allowed to invoke what it invokes."""
    admitted = {}
    policies = [(it, "sqs:SendMessage") for it in of_type(resources, "AWS::SQS::QueuePolicy").values()]
    topics = of_type(resources, "AWS::SNS::TopicPolicy")
    policies += [(it, "sns:Publish") for name, it in topics.items() if name != "AlarmTopicPolicy"]
    for policy, action in policies:
        for it in statements(policy):
            if it["Effect"] == "Allow":
                sources = it.get("Condition", {}).get("ArnEquals", {}).get("aws:SourceArn")
                if it["Principal"] != {"Service": "events.amazonaws.com"} or it["Action"] != action or not sources:
                    yield f"a queue or topic admits {it['Principal']} from {sources}"
                admitted.setdefault(it["Resource"], set()).update(listed(sources or []))
            elif it["Condition"] != {"Bool": {"aws:SecureTransport": "false"}}:
                yield f"an unexpected refusal: {it}"
    sending = {}
    for name, rule in of_type(resources, "AWS::Events::Rule").items():
        for target in rule["Properties"]["Targets"]:
            for place in (target["Arn"], target.get("DeadLetterConfig", {}).get("Arn")):
                sending.setdefault(place, set()).add(f"${{{name}.Arn}}")
    for place, rules in admitted.items():
        for rule in sorted(rules - sending.get(place, set())):
            yield f"{place} admits {rule}, which does not send to it"
    invoking = {it["Properties"]["SourceArn"] for it in of_type(resources, "AWS::Lambda::Permission").values()}
    for name, rule in of_type(resources, "AWS::Events::Rule").items():
        arn = f"${{{name}.Arn}}"
        for target in rule["Properties"]["Targets"]:
            to_function = target["Arn"] == "${Function.Arn}"
            # The hub's bus is another account's; only_this_stacks_alarms_go_to_the_hub looks at the role.
            if name != "AlarmStateRule" and arn not in (invoking if to_function else admitted.get(target["Arn"], ())):
                yield f"{name} is not admitted at {target['Arn']}"
            if "DeadLetterConfig" in target and arn not in admitted.get(target["DeadLetterConfig"]["Arn"], ()):
                yield f"{name} is not admitted at its dead-letter queue"


def alarms_are_alike(resources, topic="${AlarmTopic}"):
    """The template must state for each alarm what all have in common, and where it is sent to."""
    # Where missing data breached, an alarm would fire in the first minutes of a new stack.
    common = {"AlarmActions": [topic], "ComparisonOperator": "GreaterThanThreshold", "TreatMissingData": "notBreaching"}
    # The only alarm on too few of something.
    too_few = {"ComparisonOperator": "LessThanThreshold"}
    for name, alarm in of_type(resources, "AWS::CloudWatch::Alarm").items():
        for key, value in (common | too_few if name == "NoSweepAlarm" else common).items():
            if alarm["Properties"].get(key) != value:
                yield f"{key} of {name} is {alarm['Properties'].get(key)}, not {value}"
        if not alarm["Properties"].get("AlarmDescription", "").startswith("imds-enforcer - "):
            yield f"the description of {name} does not begin with the name of the project"


def series_of(alarm):
    """The namespace, metric, dimensions, statistic and period of each metric that an alarm looks at."""
    found = alarm["Properties"]
    stats = [it["MetricStat"] for it in found.get("Metrics", []) if "MetricStat" in it]
    series = [(it["Metric"], it["Stat"], it["Period"]) for it in stats] or [(found, found["Statistic"], found["Period"])]
    return [
        (metric["Namespace"], metric["MetricName"], {it["Name"]: it["Value"] for it in metric["Dimensions"]}, stat, int(period))
        for metric, stat, period in series
    ]


def lasting(alarm):
    """The seconds that an alarm looks back for."""
    return series_of(alarm)[0][-1] * int(alarm["Properties"]["EvaluationPeriods"])


def expressions_of(alarm):
    return [it["Expression"] for it in alarm["Properties"].get("Metrics", []) if "Expression" in it]


def a_missed_sweep_is_found_in_hours_of_the_stack_alone(resources):
    """The queue has data from the beginning of the stack, since its event source polls it."""
    for alarm in [it for name, it in resources.items() if name == "NoSweepAlarm"]:
        series = [(namespace, metric, dimensions, period) for namespace, metric, dimensions, _, period in series_of(alarm)]
        sweeps = ("AWS/Events", "Invocations", {"RuleName": "${SweepRule}"}, 3600)
        queue = ("AWS/SQS", "ApproximateNumberOfMessagesVisible", {"QueueName": "${LaunchQueue.QueueName}"}, 3600)
        if series != [sweeps, queue] or expressions_of(alarm) != ["SUM([sweeps, 0 * queue])"]:
            yield f"NoSweepAlarm is on {expressions_of(alarm)} of {series}"


def every_loss_is_found(resources):
    """What a rule can give neither to its target nor to a queue, and what the function can't give to its."""
    yield from losses_unseen(resources, [*losses_of_rules(resources), ("AWS/Lambda", "DeadLetterErrors", {"FunctionName": "${Function}"})])


def losses_of_rules(resources):
    """The namespace, metric and dimensions of what each rule loses, with a dead-letter queue or without."""
    for name, rule in of_type(resources, "AWS::Events::Rule").items():
        bus = rule["Properties"].get("EventBusName")
        # The ARN of a rule of a bus ends in the bus's name and its own.
        dimensions = {"EventBusName": bus, "RuleName": name} if bus else {"RuleName": f"${{{name}}}"}
        kept = all("DeadLetterConfig" in target for target in rule["Properties"]["Targets"])
        yield "AWS/Events", "InvocationsFailedToBeSentToDlq" if kept else "FailedInvocations", dimensions


def losses_unseen(resources, expected):
    alarm = resources.get("LostEventAlarm", {"Properties": {"Metrics": []}})
    found = [(namespace, metric, named(dimensions)) for namespace, metric, dimensions, *_ in series_of(alarm)] if alarm["Properties"]["Metrics"] else []
    for series in expected:
        if series not in found:
            yield f"LostEventAlarm does not see {series}"
    if expressions_of(alarm) != ["SUM(METRICS())"]:
        yield f"LostEventAlarm is on {expressions_of(alarm)}"


def named(dimensions):
    """The dimensions, with the rule in place of the part of its ARN that is its name."""
    return {name: of_a_bus(value) if isinstance(value, dict) else value for name, value in dimensions.items()}


def of_a_bus(value):
    [number, split] = value["Fn::Select"]
    [bar, arn] = split["Fn::Split"]
    return arn.removeprefix("${").removesuffix(".Arn}") if (int(number), bar) == (2, "/") else f"{value}"


# Invocations in five minutes: Lambda gathers five batches at a time, each for the window of two seconds, which
# is 750 at the most. A change counts as three: 150 of them are left.
MOST_INVOCATIONS = 1200


def a_runaway_is_found(resources):
    if "RunawayAlarm" not in resources:
        return (yield "there is no RunawayAlarm")
    alarm = resources["RunawayAlarm"]
    found = [(namespace, metric, dimensions, *rest) for namespace, metric, dimensions, *rest in series_of(alarm)]
    if [it[:3] for it in found] != [
        ("AWS/Lambda", "Invocations", {"FunctionName": "${Function}"}),
        ("AWS/Events", "Invocations", {"RuleName": "${ChangeRule}"}),
    ]:
        yield f"RunawayAlarm is on {found}"
    if expressions_of(alarm) != ["SUM([invocations, 2 * changes])"] or alarm["Properties"]["Threshold"] != MOST_INVOCATIONS:
        yield f"RunawayAlarm fires at {expressions_of(alarm)} > {alarm['Properties']['Threshold']}"


def guard(resources):
    """The rules of `template.guard`."""
    rules = (pathlib.Path(__file__).parent / "template.guard").read_text()
    for failed in run_checks({"Resources": resources}, rules).not_compliant:
        yield failed.Rule.name


def what_is_queued_is_handled_whatever_is_off(resources):
    """Also with the rules off, since failed events and the redrive of the dead-letter queue go there."""
    if properties(resources, "LaunchSource").get("Enabled") is not True:
        yield "what a redrive moves into the queue of launches waits there unseen"


# The alarms on what can come back with each sweep.
TOLD_ONCE = ["ErrorAlarm", "LostEventAlarm", "OldestMessageAlarm", "RefusingCallsAlarm", "UnpublishedAlarm"]


def a_fault_that_lasts_is_told_once(resources):
    """One period is enough to alarm, and the next sweep comes before it is forgotten."""
    for name, alarm in of_type(resources, "AWS::CloudWatch::Alarm").items():
        found = alarm["Properties"]
        if name in TOLD_ONCE:
            if found.get("DatapointsToAlarm") != 1 or lasting(alarm) <= 3600:
                yield f"{name} can go off and on again with each sweep"
        elif "DatapointsToAlarm" in found:
            yield f"{name} is not among those that are told once"


# The results that somebody has something to do with.
FOR_PEOPLE = ["IMDS Tokens Required", "IMDS Enforcement Failed", "IMDS Launch Attributed", "IMDS Calls Refused"]


def messages_are_for_people(resources):
    for rule in [it for name, it in resources.items() if name == "ResultRule"]:
        pattern = rule["Properties"]["EventPattern"]
        if pattern != {"source": ["imds-enforcer"], "detail-type": FOR_PEOPLE}:
            yield f"people get messages for {pattern}"
        [target] = rule["Properties"]["Targets"]
        for line in target["InputTransformer"]["InputTemplate"].split("\n"):
            # EventBridge takes no line without the quotes around it.
            if not re.fullmatch(r'"[^"\\]+"', line):
                yield f"a message has stray quotes: {line}"


# On, and off again: a new alarm has no data, which is no news.
ON_AND_OFF_AGAIN = [{"state": {"value": ["ALARM"]}}, {"state": {"value": ["OK"]}, "previousState": {"value": ["ALARM"]}}]
# A name is the stack's, the resource's and a random one: with three hyphens more it is of a stack whose name
# only begins the same. The end of a loss is not sent, since its refusal would be the next loss.
OTHER_STACKS, LOSSES = "${AWS::StackName}-*-*-*", "${AWS::StackName}-*LostEventAlarm*"
SENT_TO_THE_HUB = [
    ON_AND_OFF_AGAIN[0] | {"alarmName": [{"anything-but": {"wildcard": OTHER_STACKS}}]},
    ON_AND_OFF_AGAIN[1] | {"alarmName": [{"anything-but": {"wildcard": [OTHER_STACKS, LOSSES]}}]},
]
ALARMS_OF_THE_STACK = "arn:${AWS::Partition}:cloudwatch:${AWS::Region}:${AWS::AccountId}:alarm:${AWS::StackName}-"
RULES_OF_THE_ACCOUNT = {
    "StringEquals": {"aws:SourceAccount": "${AWS::AccountId}"},
    "ArnLike": {"aws:SourceArn": "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:rule/*"},
}


def only_this_stacks_alarms_go_to_the_hub(resources):
    """And to nothing but the bus that results go to, in the name of a role that can do nothing else."""
    if "AlarmStateRule" not in resources:
        return
    bus = properties(resources, "Function")["Environment"]["Variables"]["IMDS_RESULT_BUS"]
    expected = {
        "source": ["aws.cloudwatch"],
        "detail-type": ["CloudWatch Alarm State Change"],
        "resources": [{"prefix": ALARMS_OF_THE_STACK}],
        "detail": {"configuration": {"description": [{"prefix": "imds-enforcer - "}]}, "$or": SENT_TO_THE_HUB},
    }
    rule, role = properties(resources, "AlarmStateRule"), properties(resources, "AlarmStateRole")
    if rule["EventPattern"] != expected:
        yield f"the hub gets {rule['EventPattern']}"
    if [(it["Arn"], it.get("RoleArn")) for it in rule["Targets"]] != [(bus, "${AlarmStateRole.Arn}")]:
        yield f"states of alarms go to {rule['Targets']}, and results to {bus}"
    allowed = [(it["Effect"], it["Action"], it["Resource"]) for it in statements(resources["AlarmStateRole"])]
    if allowed != [("Allow", "events:PutEvents", bus)]:
        yield f"the role of AlarmStateRule may do {allowed}"
    trusted = [(it["Principal"], it.get("Condition")) for it in role["AssumeRolePolicyDocument"]["Statement"]]
    if trusted != [({"Service": "events.amazonaws.com"}, RULES_OF_THE_ACCOUNT)]:
        yield f"the role of AlarmStateRule trusts {trusted}"


CHECKS = [
    the_role_may_do_what_the_code_calls_and_nothing_else,
    the_role_sends_to_the_queue_of_launches_alone,
    the_role_can_only_tighten,
    results_can_only_be_the_functions_own,
    the_function_is_what_the_build_makes,
    times_fit_one_another,
    what_fails_is_tried_again,
    the_queue_leaves_executions_to_changes,
    nothing_is_lost,
    bursts_share_the_queue_and_changes_do_not_wait,
    what_is_queued_is_handled_whatever_is_off,
    every_queue_and_topic_admits_only_these_rules,
    alarms_are_alike,
    a_fault_that_lasts_is_told_once,
    a_missed_sweep_is_found_in_hours_of_the_stack_alone,
    every_loss_is_found,
    a_runaway_is_found,
    messages_are_for_people,
    only_this_stacks_alarms_go_to_the_hub,
    guard,
]


# What a parameter must allow, and what it must not: of days, all that there are.
SINCE = {
    "all": True,
    "2026-11-02": True,
    "2026-01-31": True,
    "2026-04-30": True,
    "2028-02-29": True,
    "2026-10-31": True,
    "2026-12-31": True,
    "": False,
    "none": False,
    "2026-13-01": False,
    "2026-00-10": False,
    "2026-11-2": False,
    "2026-11-02T00:00:00Z": False,
    "2026-02-30": False,
    "2026-04-31": False,
    "2026-06-31": False,
    "2026-09-31": False,
    "2026-11-31": False,
    "2026-01-32": False,
    "2026-11-00": False,
}


def whoever_deploys_says_since_when(template):
    parameter = template["Parameters"]["EnforceSince"]
    if "Default" in parameter:
        yield f"a deployment that does not say since when enforces since {parameter['Default']}"
    allowed = re.compile(parameter["AllowedPattern"])
    for value, expected in SINCE.items():
        if bool(allowed.search(value)) != expected:
            yield f"{value!r} is {'not ' if expected else ''}allowed"


def an_alarm_lasts_until_the_next_sweep(template):
    """The alarms over SweepAlarmHours count in hours, and a sweep may run each hour or each week.

    The first hour of a new stack counts whole, so that with two hours the alarm would fire before the
    first sweep. CloudWatch looks back for seven days at the most.
    """
    parameter = template["Parameters"]["SweepAlarmHours"]
    if parameter["MinValue"] < 3:
        yield f"SweepAlarmHours may be {parameter['MinValue']}, and a new stack fires the alarm"
    if parameter["MaxValue"] != 7 * 24:
        yield f"SweepAlarmHours ends at {parameter['MaxValue']}, not at a week"


def a_reservation_is_more_than_the_queue_takes(template):
    taken = template["Resources"]["LaunchSource"]["Properties"].get("ScalingConfig", {}).get("MaximumConcurrency", 1000)
    rules = template.get("Rules", {}).values()
    asserted = [it["Assert"] for rule in rules for it in rule["Assertions"]]
    refused = {"Fn::Not": [{"Fn::Contains": [[str(few) for few in range(1, taken + 1)], {"Ref": "ReservedConcurrency"}]}]}
    if refused not in asserted:
        yield f"ReservedConcurrency may be no more than the {taken} executions of the queue"


def results_go_one_way(template):
    """A hub's bus leaves no place for another."""
    rule = template.get("Rules", {}).get("ResultsGoOneWay", {"Assertions": []})
    for asserted in (it["Assert"] for it in rule["Assertions"]):
        refused = {"Fn::Or": [empty("HubBusArn"), {"Fn::And": [empty("ResultBus"), empty("ResultBusArn")]}]}
        if asserted != refused:
            yield f"beside HubBusArn it is asserted that {asserted}"
    if not rule["Assertions"]:
        yield "HubBusArn may be given with ResultBus or ResultBusArn"


def empty(parameter):
    return {"Fn::Equals": [{"Ref": parameter}, ""]}


CHECKS_OF_PARAMETERS = [
    whoever_deploys_says_since_when,
    an_alarm_lasts_until_the_next_sweep,
    a_reservation_is_more_than_the_queue_takes,
    results_go_one_way,
]


def findings(template, **parameters):
    """All that is wrong with a SAM template, in the default configuration or another."""
    found = lint(template)
    for check in CHECKS_OF_PARAMETERS:
        found += [f"{check.__name__}: {finding}" for finding in check(template)]
    resources = templates.resources(template, **parameters)
    for check in CHECKS:
        found += [f"{check.__name__}: {finding}" for finding in check(resources)]
    return found
