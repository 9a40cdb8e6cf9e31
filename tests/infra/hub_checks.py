"""What the hub's template must hold, each as a check that answers what is wrong.

`test_hub_template.py` shows that the template has none, and that each of a set of seeded faults has some.
What becomes of events is tried by `test_hub.py`, and who may send them by `infra/hub.test.ts`.
"""

import json
import re

import sam
from checks import (
    ON_AND_OFF_AGAIN,
    ROOT,
    RULES_OF_THE_ACCOUNT,
    expressions_of,
    guard,
    losses_of_rules,
    losses_unseen,
    of_type,
    properties,
    series_of,
)
from template import listed, statements

EVENTS = {"Service": "events.amazonaws.com"}
EVERY_RESULT = {"source": ["imds-enforcer"]}
STATES_OF_OUR_ALARMS = {
    "source": ["aws.cloudwatch"],
    "detail-type": ["CloudWatch Alarm State Change"],
    "detail": {"configuration": {"description": [{"prefix": "imds-enforcer - "}]}, "$or": ON_AND_OFF_AGAIN},
}

# What each rule receives, and where it sends it.
LANES = {
    "AlarmStateRule": (STATES_OF_OUR_ALARMS, "${AlarmTopic}"),
    "RecordRule": (EVERY_RESULT, "${Record}"),
    "ResultRule": (None, "${ResultTopic}"),
    "WatchRule": (None, "${Watch}"),
}


def the_bus_admits_the_organization_alone(resources):
    policy = properties(resources, "BusPolicy")
    expected = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "events:PutEvents",
        "Resource": "${Bus.Arn}",
        "Condition": {"StringEquals": {"aws:PrincipalOrgID": "o-a1b2c3d4e5"}},
    }
    if policy.get("Statement") != expected or policy.get("EventBusName") != "${Bus}":
        yield f"the bus admits {policy}"


def each_rule_receives_what_it_must(resources):
    for name, (pattern, place) in LANES.items():
        rule = properties(resources, name)
        if pattern and rule.get("EventPattern") != pattern:
            yield f"{name} receives {rule.get('EventPattern')}"
        if [it["Arn"] for it in rule.get("Targets", [])] != [place]:
            yield f"{name} sends to {rule.get('Targets')}, not to {place}"
        if rule.get("State") != "ENABLED" or rule.get("EventBusName") != (None if name == "WatchRule" else "${Bus}"):
            yield f"{name} is {rule.get('State')} on {rule.get('EventBusName')}"
    if properties(resources, "WatchRule").get("ScheduleExpression") != "rate(1 hour)":
        yield "nobody looks for silence each hour"
    archive = properties(resources, "Archive")
    if (archive.get("SourceArn"), archive.get("EventPattern")) != ("${Bus.Arn}", EVERY_RESULT):
        yield f"the archive keeps {archive}"


def messages_are_those_of_a_member(resources):
    """A result makes the same message, whichever bus it came by."""
    [own] = properties(sam.raw()["Resources"], "ResultRule")["Targets"]
    rule = properties(resources, "ResultRule")
    if rule["EventPattern"] != properties(sam.raw()["Resources"], "ResultRule")["EventPattern"]:
        yield f"messages are made of {rule['EventPattern']}"
    if rule["Targets"][0].get("InputTransformer") != own["InputTransformer"]:
        yield f"a message is {rule['Targets'][0].get('InputTransformer')}"
    for line in properties(resources, "AlarmStateRule")["Targets"][0]["InputTransformer"]["InputTemplate"].split("\n"):
        if not re.fullmatch(r'"[^"\\]+"', line):
            yield f"a message has stray quotes: {line}"


def what_a_rule_can_not_deliver_is_kept(resources):
    for name, rule in of_type(resources, "AWS::Events::Rule").items():
        expected = {"MaximumEventAgeInSeconds": 3600 if name == "WatchRule" else 86400, "MaximumRetryAttempts": 185}
        for target in rule["Properties"]["Targets"]:
            if target.get("RetryPolicy") != expected:
                yield f"{name} delivers again by {target.get('RetryPolicy')}, not by {expected}"
            if target.get("DeadLetterConfig") != {"Arn": "${DeadLetterQueue.Arn}"}:
                yield f"what {name} can't deliver is lost"


def rules(*names):
    arns = [f"${{{name}.Arn}}" for name in names]
    return {"ArnEquals": {"aws:SourceArn": arns if len(arns) > 1 else arns[0]}}


# Whom each policy of a queue or topic admits.
ADMITTED = {
    "DeadLetterQueuePolicy": [(EVENTS, "sqs:SendMessage", "${DeadLetterQueue.Arn}", rules("ResultRule", "AlarmStateRule", "RecordRule", "WatchRule"))],
    "ResultTopicPolicy": [(EVENTS, "sns:Publish", "${ResultTopic}", rules("ResultRule"))],
    "AlarmTopicPolicy": [
        (EVENTS, "sns:Publish", "${AlarmTopic}", rules("AlarmStateRule")),
        ({"Service": "cloudwatch.amazonaws.com"}, "sns:Publish", "${AlarmTopic}", {"StringEquals": {"aws:SourceAccount": "${AWS::AccountId}"}}),
    ],
}


def queue_and_topics_admit_only_their_rules(resources):
    for name, expected in ADMITTED.items():
        stated = statements(resources[name]) if name in resources else []
        allowed = [(it["Principal"], it["Action"], it["Resource"], it.get("Condition")) for it in stated if it["Effect"] == "Allow"]
        if allowed != expected:
            yield f"{name} admits {allowed}"
        if [it["Condition"] for it in stated if it["Effect"] == "Deny"] != [{"Bool": {"aws:SecureTransport": "false"}}]:
            yield f"{name} takes what is not encrypted on its way"


# The action of IAM for a call of a state machine, where it is not the call's own name.
OTHER_ACTIONS = {"dynamodb:TransactWriteItems": "dynamodb:UpdateItem"}
OF_A_KEY = {"kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey"}
RESOURCES = {
    "dynamodb": "${Members.Arn}",
    "logs": "${LogGroup.Arn}",
    "sns": "${AlarmTopic}",
    "sqs": "${DeadLetterQueue.Arn}",
    "cloudwatch": "*",
    "states": ["${Record}", "${Watch}"],
}


def calls(definition):
    """The actions of IAM that a state machine needs."""
    for state in definition["States"].values():
        if state["Type"] == "Task":
            service, call = re.fullmatch(r"arn:\$\{AWS::Partition\}:states:::aws-sdk:(\w+):(\w+)", state["Resource"]).groups()
            action = f"{service.replace('cloudwatchlogs', 'logs')}:{call[0].upper()}{call[1:]}"
            yield OTHER_ACTIONS.get(action, action)


def roles_may_do_what_is_called_and_nothing_else(resources):
    called = {f"{name}Role": set(calls(properties(resources, name)["Definition"])) for name in ("Record", "Watch")}
    for name, expected in (called | {"StartRole": {"states:StartExecution"}}).items():
        key = properties(resources, "DeadLetterQueue").get("KmsMasterKeyId")
        actions = {action for it in statements(resources[name]) for action in listed(it["Action"])}
        if actions != expected | (OF_A_KEY if key and name != "StartRole" else set()):
            yield f"{name} may do {sorted(actions)}, and {sorted(expected)} is called"
        for it in statements(resources[name]):
            service = listed(it["Action"])[0].split(":")[0]
            if it["Resource"] != {**RESOURCES, "kms": key}.get(service):
                yield f"{name} may do {it['Action']} on {it['Resource']}"
            if it["Resource"] == "*" and it.get("Condition") != {"StringEquals": {"cloudwatch:namespace": "ImdsEnforcer"}}:
                yield f"{name} may write any metric"


def roles_trust_this_account_alone(resources):
    of_machines = ({"Service": "states.amazonaws.com"}, {"StringEquals": {"aws:SourceAccount": "${AWS::AccountId}"}})
    expected = {"StartRole": (EVENTS, RULES_OF_THE_ACCOUNT), "RecordRole": of_machines, "WatchRole": of_machines}
    for name, trusted in expected.items():
        stated = [(it["Principal"], it.get("Condition")) for it in properties(resources, name)["AssumeRolePolicyDocument"]["Statement"]]
        if stated != [trusted]:
            yield f"{name} trusts {stated}"


def alarms_are_told(resources):
    alarms = of_type(resources, "AWS::CloudWatch::Alarm")
    if alarms.keys() != {"SilentAlarm", "WatchAlarm", "RecordAlarm", "LostEventAlarm", "UndeliveredAlarm"}:
        yield f"the alarms are {sorted(alarms)}"
    for name, alarm in alarms.items():
        found, topic = alarm["Properties"], ["${AlarmTopic}"]
        if (found.get("AlarmActions"), found.get("OKActions")) != (topic, topic):
            yield f"nobody is told of {name}"
        # A member in the hub's account sends what begins with "imds-enforcer - ", and all would be told twice.
        if not found["AlarmDescription"].startswith("imds-enforcer hub - "):
            yield f"the description of {name} does not begin with the hub's name"
        without_data = ("missing", topic) if name == "SilentAlarm" else ("notBreaching", None)
        if (found.get("TreatMissingData"), found.get("InsufficientDataActions")) != without_data:
            yield f"without data, {name} is {found.get('TreatMissingData')}, and {found.get('InsufficientDataActions')} is told"


def every_loss_is_found(resources):
    yield from losses_unseen(resources, list(losses_of_rules(resources)))


def every_execution_that_does_not_succeed_is_found(resources):
    for name in ("Record", "Watch"):
        alarm = resources.get(f"{name}Alarm", {"Properties": {}})
        dimensions = {"StateMachineArn": f"${{{name}}}"}
        expected = [("AWS/States", metric, dimensions, "Sum", 300) for metric in ("ExecutionsFailed", "ExecutionsTimedOut")]
        if "Metrics" not in alarm["Properties"] or series_of(alarm) != expected or expressions_of(alarm) != ["SUM(METRICS())"]:
            yield f"{name}Alarm is on {alarm['Properties'].get('Metrics')}"


def what_is_not_recorded_is_kept_with_its_error(resources):
    """An execution of an Express state machine leaves no history."""
    states = properties(resources, "Record")["Definition"]["States"]
    for name, state in states.items():
        caught = [it["Next"] for it in state.get("Catch", []) if it["ErrorEquals"] == ["States.ALL"]]
        if state["Type"] == "Task" and name != "Keep" and caught != ["Keep"]:
            yield f"what {name} fails to do is lost"
    if states.get("Keep", {}).get("Next") != "NotRecorded" or states["NotRecorded"]["Type"] != "Fail":
        yield "an execution that recorded nothing succeeds"
    attributes = states.get("Keep", {}).get("Arguments", {}).get("MessageAttributes", {})
    said = {name: re.findall(r"\$failure\.(\w+)", it["StringValue"]) for name, it in attributes.items()}
    if said != {"ERROR_CODE": ["Error"], "ERROR_MESSAGE": ["Cause"]}:
        yield f"beside what is kept stands {said}"


def the_alarm_is_on_what_the_watch_counts(resources):
    [written] = properties(resources, "Watch")["Definition"]["States"]["Count"]["Arguments"]["MetricData"]
    alarm = properties(resources, "SilentAlarm")
    if (alarm["MetricName"], [it["Name"] for it in alarm["Dimensions"]]) != (written["MetricName"], [it["Name"] for it in written["Dimensions"]]):
        yield f"the alarm is on {alarm['MetricName']}, and the watch counts {written['MetricName']}"
    if properties(resources, "Watch")["DefinitionSubstitutions"].get("Hub") != alarm["Dimensions"][0]["Value"]:
        yield "the alarm is on another hub's number"


SCHEMA = json.loads((ROOT / "events/schema/result-2.json").read_text())


def in_schema(kind, path):
    """Whether results of a kind have a field, by its path."""
    node = SCHEMA["$defs"][kind]
    for name in path:
        node = SCHEMA["$defs"][node["$ref"].split("/")[-1]] if "$ref" in node else node
        node = node.get("items", node).get("properties", {}).get(name)
        if node is None:
            return False
    return True


def lines_are_made_of_fields_that_results_have(resources):
    states = properties(resources, "Record")["Definition"]["States"]
    read = json.dumps(states["Read"]["Assign"])
    digest, result = (json.dumps(states[name]["Arguments"]) for name in ("WriteDigest", "WriteResult"))
    paths = [("digest", path) for path in re.findall(r"\$detail((?:\.\w+)+)", digest)]
    paths += [("digest", f".causes{path}") for path in re.findall(r"\$cause((?:\.\w+)+)", digest)]
    paths += [("instance", path) for path in re.findall(r"input\.detail((?:\.\w+)+)", result)]
    paths += [("digest", path) for path in re.findall(r"input\.detail((?:\.\w+)+)", read)]
    if len(paths) < 15:
        yield f"only these are read: {paths}"
    for kind, path in paths:
        if not in_schema(kind, path.strip(".").split(".")):
            yield f"the schema of a result has no {path} in a {kind}"
    versions = re.findall(r"schema_version = '(\w+)'", json.dumps(states))
    if set(versions) != {SCHEMA["$defs"]["digest"]["properties"]["schema_version"]["const"]}:
        yield f"results of the versions {versions} are read"


def the_dashboard_asks_for_fields_that_lines_have(resources):
    states = [it for name in ("Record", "Watch") for it in properties(resources, name)["Definition"]["States"].values()]
    text = " ".join(json.dumps(it["Arguments"]) for it in states if "putLogEvents" in it.get("Resource", ""))
    written = set(re.findall(r'\\"(\w+)\\": ', text)) | {"@timestamp"}
    kinds = set(re.findall(r'\\"line\\": \\"(\w+)\\"', text))
    widgets = json.loads(properties(resources, "Board")["DashboardBody"])["widgets"]
    for query in (it["properties"]["query"] for it in widgets if it["type"] == "log"):
        made = set(re.findall(r" as (\w+)", query))
        asked = re.findall(r"(?:latest|sum|max|count_distinct)\((@?\w+)\)", query) + re.findall(r"filter (\w+) ", query)
        asked += [it for part in re.findall(r"(?: by |fields |sort )([@\w, ]+)", query) for it in re.findall(r"@?\w+", part)]
        for field in set(asked) - written - made - {"asc", "desc", "as"}:
            yield f"no line has {field}: {query}"
        if not set(re.findall(r'line = "(\w+)"', query)) <= kinds:
            yield f"there are only lines of {kinds}: {query}"


def the_dashboard_shows_who_is_blind(resources):
    """A week, in which also a member that was silent for days still has a digest, and the error of the last one."""
    board = json.loads(properties(resources, "Board")["DashboardBody"])
    if board["start"] != "-P7D":
        yield f"the dashboard begins at {board['start']}"
    for title in ("Silent now", "The last digest"):
        [query] = [it["properties"]["query"] for it in board["widgets"] if it["properties"]["title"].startswith(title)]
        if "latest(error) as sweep_error" not in query:
            yield f"{title} does not say why a sweep failed: {query}"
        if title == "Silent now" and '(line = "digest" and error = "none")' not in query:
            yield f"a digest with an error ends the silence: {query}"


def what_was_said_outlives_the_stack(resources):
    for name in ("LogGroup", "LogStream", "DeadLetterQueue"):
        policies = [resources[name].get(key) for key in ("DeletionPolicy", "UpdateReplacePolicy")]
        if policies != ["RetainExceptOnCreate", "Retain"]:
            yield f"{name} goes with the stack: {policies}"


CHECKS = [
    the_bus_admits_the_organization_alone,
    each_rule_receives_what_it_must,
    messages_are_those_of_a_member,
    what_a_rule_can_not_deliver_is_kept,
    queue_and_topics_admit_only_their_rules,
    roles_may_do_what_is_called_and_nothing_else,
    roles_trust_this_account_alone,
    alarms_are_told,
    every_loss_is_found,
    every_execution_that_does_not_succeed_is_found,
    what_is_not_recorded_is_kept_with_its_error,
    the_alarm_is_on_what_the_watch_counts,
    lines_are_made_of_fields_that_results_have,
    the_dashboard_asks_for_fields_that_lines_have,
    the_dashboard_shows_who_is_blind,
    what_was_said_outlives_the_stack,
    guard,
]


def a_member_is_silent_before_it_is_forgotten(template):
    stated = template["Parameters"]
    if stated["ForgetDays"]["MinValue"] * 24 <= stated["SilenceHours"]["MaxValue"]:
        yield "a member may be forgotten before it is silent"
    if stated["SilenceHours"]["MinValue"] < 2:
        yield "a member with a sweep each hour may be silent between two"
