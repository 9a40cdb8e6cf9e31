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
    if str(variables["IMDS_SWEEP_GRACE_DAYS"]) != "0":
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
    if actions != iam_actions_called(resources) | OF_LAMBDA:
        yield f"the role's actions are {sorted(actions)}"
    for it in allowed:
        if "*" in listed(it["Resource"]) and not set(listed(it["Action"])) <= WITHOUT_RESOURCE:
            yield f"{it['Action']} on every resource"
        if any("*" in action for action in listed(it["Action"])):
            yield f"{it['Action']} is a wildcard"


def the_role_can_only_tighten(resources):
    instances = "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:instance/*"
    required = {"StringEquals": {"ec2:Attribute/HttpTokens": "required"}}
    for it in statements(resources["FunctionRole"]):
        if "ec2:ModifyInstanceMetadataOptions" in listed(it["Action"]):
            if it.get("Condition") != required or it["Resource"] != instances:
                yield f"the write is not limited to {required} on {instances}: {it}"


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
    visibility = properties(resources, "StateChangeQueue").get("VisibilityTimeout", 0)
    if visibility < 6 * timeout:
        yield f"a message is visible again after {visibility} s, less than 6 times the function's {timeout} s"
    if not 20 < timeout <= 900:
        yield f"a call of EC2 may take 20 s, and the function {timeout} s"


def nothing_is_lost(resources):
    dead_letters = "${DeadLetterQueue.Arn}"
    for name, rule in of_type(resources, "AWS::Events::Rule").items():
        for target in rule["Properties"]["Targets"]:
            if target.get("DeadLetterConfig", {}).get("Arn") != dead_letters:
                yield f"what {name} can't deliver is lost"
    queue = properties(resources, "StateChangeQueue")
    if queue.get("RedrivePolicy", {}).get("deadLetterTargetArn") != dead_letters:
        yield "what the queue can't hand over is lost"
    if properties(resources, "StateChangeSource").get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
        yield "one failed message holds up its neighbours"


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
    invoking = {it["Properties"]["SourceArn"] for it in of_type(resources, "AWS::Lambda::Permission").values()}
    for name, rule in of_type(resources, "AWS::Events::Rule").items():
        arn = f"${{{name}.Arn}}"
        for target in rule["Properties"]["Targets"]:
            to_function = target["Arn"] == "${Function.Arn}"
            if arn not in (invoking if to_function else admitted.get(target["Arn"], ())):
                yield f"{name} is not admitted at {target['Arn']}"
            if arn not in admitted.get(target.get("DeadLetterConfig", {}).get("Arn"), ()):
                yield f"{name} is not admitted at its dead-letter queue"


def alarms_are_alike(resources, topic="${AlarmTopic}"):
    """The template must state for each alarm what all have in common, and where it is sent to."""
    common = {"AlarmActions": [topic], "ComparisonOperator": "GreaterThanThreshold", "TreatMissingData": "notBreaching"}
    # The only alarm that fires for want of data.
    without_data = {"ComparisonOperator": "LessThanThreshold", "TreatMissingData": "breaching"}
    for name, alarm in of_type(resources, "AWS::CloudWatch::Alarm").items():
        for key, value in (common | without_data if name == "NoSweepAlarm" else common).items():
            if alarm["Properties"].get(key) != value:
                yield f"{key} of {name} is {alarm['Properties'].get(key)}, not {value}"
        if not alarm["Properties"].get("AlarmDescription", "").startswith("imds-enforcer - "):
            yield f"the description of {name} does not begin with the name of the project"


def guard(resources):
    """The rules of `template.guard`."""
    rules = (pathlib.Path(__file__).parent / "template.guard").read_text()
    for failed in run_checks({"Resources": resources}, rules).not_compliant:
        yield failed.Rule.name


def state_changes_are_handled_whenever_some_come(resources):
    """Also with the rule off, since the redrive of the dead-letter queue sends there."""
    if properties(resources, "StateChangeSource").get("Enabled") is not True:
        yield "what a redrive moves into the queue of state changes waits there unseen"


CHECKS = [
    the_role_may_do_what_the_code_calls_and_nothing_else,
    the_role_can_only_tighten,
    results_can_only_be_the_functions_own,
    the_function_is_what_the_build_makes,
    times_fit_one_another,
    nothing_is_lost,
    state_changes_are_handled_whenever_some_come,
    every_queue_and_topic_admits_only_these_rules,
    alarms_are_alike,
    guard,
]


def findings(template, **parameters):
    """All that is wrong with a SAM template, in the default configuration or another."""
    found = lint(template)
    resources = templates.resources(template, **parameters)
    for check in CHECKS:
        found += [f"{check.__name__}: {finding}" for finding in check(resources)]
    return found
