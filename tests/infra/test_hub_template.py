"""The hub's template, as text and as CloudFormation would see it: its checks, and the faults that they find."""

import copy
import json
import re

import hub_checks
import pytest
from cfnlint.api import lint_all
from resolver import Resolver
from samcli.yamlhelper import yaml_parse
from template import ROOT

TEMPLATE = ROOT / "infra/hub.yaml"
DEFAULT = {"OrganizationId": "o-a1b2c3d4e5"}
KEY = "arn:aws:kms:us-east-1:111122223333:key/1"
MANUAL = (ROOT / "infra/README.md").read_text()


def raw():
    return yaml_parse(TEMPLATE.read_text())


def deployed(template=None, **parameters):
    return Resolver(template or raw(), {**DEFAULT, **parameters}).resources()


def test_cfn_lint_finds_nothing():
    assert [it.message for it in lint_all(TEMPLATE.read_text()) if not it.rule.id.startswith("I")] == []


@pytest.mark.parametrize(
    "parameters",
    [{}, {"KmsKeyArn": KEY}, {"ResultEmail": "security@example.com", "AlarmEmail": "security@example.com", "SilenceHours": 168}],
    ids=["default", "key", "messages"],
)
def test_nothing_is_wrong_with_it(parameters):
    resources = deployed(**parameters)
    assert [f"{check.__name__}: {it}" for check in hub_checks.CHECKS for it in check(resources)] == []
    assert list(hub_checks.a_member_is_silent_before_it_is_forgotten(raw())) == []


def test_the_dashboard_can_be_left_out():
    assert "Board" not in deployed(Dashboard="off")


def test_a_key_of_ones_own_encrypts_what_is_kept():
    resources = deployed(KmsKeyArn=KEY)
    keys = {
        "DeadLetterQueue": "KmsMasterKeyId",
        "ResultTopic": "KmsMasterKeyId",
        "AlarmTopic": "KmsMasterKeyId",
        "LogGroup": "KmsKeyId",
    }
    for name, key in keys.items():
        assert resources[name]["Properties"][key] == KEY
    assert resources["Members"]["Properties"]["SSESpecification"]["KMSMasterKeyId"] == KEY


def at(resources, name):
    return resources[name]["Properties"]


def pattern(resources, name):
    return at(resources, name)["EventPattern"]


def target(resources, name):
    return at(resources, name)["Targets"][0]


def statement(resources, name, number=0):
    document = at(resources, name)["Policies"][0] if "Policies" in at(resources, name) else at(resources, name)
    return document["PolicyDocument"]["Statement"][number]


def state(resources, machine, name):
    return at(resources, machine)["Definition"]["States"][name]


def replaced(node, key, old, new):
    assert old in node[key]
    node[key] = node[key].replace(old, new)


SEEDED_FAULTS = {
    "the_bus_admits_the_organization_alone": {
        "bus open to everybody": lambda it: at(it, "BusPolicy")["Statement"].pop("Condition"),
        "bus whose rules anybody may change": lambda it: at(it, "BusPolicy")["Statement"].update(Action="events:*"),
        "bus that nobody may send to": lambda it: it.pop("BusPolicy"),
    },
    "each_rule_receives_what_it_must": {
        "digests lost": lambda it: pattern(it, "RecordRule").update({"detail-type": ["IMDS Tokens Required"]}),
        "digests recorded nowhere": lambda it: target(it, "RecordRule").update(Arn={"Ref": "Watch"}),
        "new alarms, without data": lambda it: pattern(it, "AlarmStateRule")["detail"].pop("$or"),
        "alarms of others": lambda it: pattern(it, "AlarmStateRule")["detail"].pop("configuration"),
        "alarms that nobody is told of": lambda it: at(it, "AlarmStateRule").update(State="DISABLED"),
        "rule of another bus": lambda it: at(it, "RecordRule").pop("EventBusName"),
        "silence looked for each day": lambda it: at(it, "WatchRule").update(ScheduleExpression="rate(1 day)"),
        "archive of alarms alone": lambda it: pattern(it, "Archive").update(source=["aws.cloudwatch"]),
    },
    "messages_are_those_of_a_member": {
        "messages for every sweep": lambda it: pattern(it, "ResultRule")["detail-type"].append("IMDS Sweep Digest"),
        "message without its account": lambda it: replaced(target(it, "ResultRule")["InputTransformer"], "InputTemplate", ", account <account>", ""),
        "alarm without its quotes": lambda it: target(it, "AlarmStateRule")["InputTransformer"].update(InputTemplate="<alarm>"),
    },
    "what_a_rule_can_not_deliver_is_kept": {
        "digests not kept": lambda it: target(it, "RecordRule").pop("DeadLetterConfig"),
        "alarms delivered as EventBridge likes": lambda it: target(it, "AlarmStateRule").pop("RetryPolicy"),
        "watch delivered after the next": lambda it: target(it, "WatchRule")["RetryPolicy"].update(MaximumEventAgeInSeconds=86400),
    },
    "queue_and_topics_admit_only_their_rules": {
        "topic of results open to all rules": lambda it: statement(it, "ResultTopicPolicy").pop("Condition"),
        "topic of alarms open to every account's alarms": lambda it: statement(it, "AlarmTopicPolicy", 1).pop("Condition"),
        "queue closed to a rule": lambda it: statement(it, "DeadLetterQueuePolicy")["Condition"]["ArnEquals"]["aws:SourceArn"].pop(),
        "queue without a policy": lambda it: it.pop("DeadLetterQueuePolicy"),
        "messages in clear text": lambda it: at(it, "AlarmTopicPolicy")["PolicyDocument"]["Statement"].pop(),
    },
    "roles_may_do_what_is_called_and_nothing_else": {
        "role that may delete members": lambda it: statement(it, "WatchRole").update(Action=["dynamodb:Scan", "dynamodb:UpdateItem", "dynamodb:DeleteItem"]),
        "role that may not scan": lambda it: statement(it, "WatchRole").update(Action="dynamodb:UpdateItem"),
        "every table": lambda it: statement(it, "RecordRole").update(Resource="*"),
        "any metric": lambda it: statement(it, "WatchRole", 3).pop("Condition"),
        "any state machine": lambda it: statement(it, "StartRole").update(Resource="*"),
    },
    "roles_trust_this_account_alone": {
        "role for the rules of any account": lambda it: at(it, "StartRole")["AssumeRolePolicyDocument"]["Statement"][0].pop("Condition"),
        "role for the machines of any account": lambda it: at(it, "WatchRole")["AssumeRolePolicyDocument"]["Statement"][0].pop("Condition"),
    },
    "alarms_are_told": {
        "alarm without a topic": lambda it: at(it, "RecordAlarm").pop("AlarmActions"),
        "watch that ends in silence": lambda it: at(it, "SilentAlarm").update(TreatMissingData="notBreaching"),
        "watch that fails in silence": lambda it: it.pop("WatchAlarm"),
        "alarm that a member in the hub's account tells again": lambda it: at(it, "RecordAlarm").update(AlarmDescription="imds-enforcer - it fails"),
        "alarm at creation": lambda it: at(it, "SilentAlarm").update(TreatMissingData="breaching"),
    },
    "every_loss_is_found": {
        "no alarm on losses": lambda it: it.pop("LostEventAlarm"),
        "rule whose losses nobody sees": lambda it: at(it, "LostEventAlarm")["Metrics"].pop(3),
        "rule of the bus as one of the default bus": lambda it: at(it, "LostEventAlarm")["Metrics"][1]["MetricStat"]["Metric"]["Dimensions"].pop(0),
    },
    "every_execution_that_does_not_succeed_is_found": {
        "time-out unseen": lambda it: at(it, "RecordAlarm")["Metrics"].pop(2),
        "watch that is not looked at": lambda it: at(it, "WatchAlarm")["Metrics"][1]["MetricStat"]["Metric"].update(Dimensions=[{"Name": "StateMachineArn", "Value": {"Ref": "Record"}}]),
    },
    "what_is_not_recorded_is_kept_with_its_error": {
        "line that is lost": lambda it: state(it, "Record", "WriteResult").pop("Catch"),
        "digest that is lost": lambda it: state(it, "Record", "Seen")["Catch"].pop(),
        "event without its error": lambda it: state(it, "Record", "Keep")["Arguments"]["MessageAttributes"].pop("ERROR_MESSAGE"),
        "failure that counts as a success": lambda it: state(it, "Record", "Keep").update(Next="Done"),
    },
    "the_alarm_is_on_what_the_watch_counts": {
        "number of another name": lambda it: at(it, "SilentAlarm").update(MetricName="Silent"),
        "number of another hub": lambda it: at(it, "Watch")["DefinitionSubstitutions"].update(Hub="imds-enforcer-hub"),
    },
    "lines_are_made_of_fields_that_results_have": {
        "field that a digest has not": lambda it: replaced(state(it, "Record", "WriteDigest")["Arguments"], "LogEvents", "counts.left_over", "left_over"),
        "field that a cause has not": lambda it: replaced(state(it, "Record", "WriteDigest")["Arguments"], "LogEvents", "$cause.count", "$cause.instances"),
        "version that there is not": lambda it: state(it, "Record", "IsKnownVersion")["Choices"][0].update(
            Condition="{% $states.input.detail.schema_version = '1' %}"
        ),
    },
    "the_dashboard_asks_for_fields_that_lines_have": {
        "field that no line has": lambda it: replaced(at(it, "Board")["DashboardBody"], "Fn::Sub", "latest(left_over)", "latest(leftover)"),
        "lines that there are not": lambda it: replaced(at(it, "Board")["DashboardBody"], "Fn::Sub", 'line = \\"cause\\"', 'line = \\"causes\\"'),
        "line without what is left": lambda it: replaced(state(it, "Record", "WriteDigest")["Arguments"], "LogEvents", '"left_over": ', '"leftover": '),
    },
    "the_dashboard_shows_who_is_blind": {
        "dashboard of a day": lambda it: replaced(at(it, "Board")["DashboardBody"], "Fn::Sub", "-P7D", "-P1D"),
        "digest without its error": lambda it: replaced(at(it, "Board")["DashboardBody"], "Fn::Sub", "as refusals, latest(error) as sweep_error", "as refusals"),
        "silence that a blind sweep ends": lambda it: replaced(at(it, "Board")["DashboardBody"], "Fn::Sub", '(line = \\"digest\\" and error = \\"none\\")', 'line = \\"digest\\"'),
    },
    "what_was_said_outlives_the_stack": {
        "lines deleted with the stack": lambda it: it["LogStream"].pop("DeletionPolicy"),
        "log deleted by a replacement": lambda it: it["LogGroup"].pop("UpdateReplacePolicy"),
        "undelivered events deleted with the stack": lambda it: it["DeadLetterQueue"].update(DeletionPolicy="Delete"),
    },
    "guard": {
        "log kept for ever": lambda it: at(it, "LogGroup").pop("RetentionInDays"),
        "queue not encrypted": lambda it: at(it, "DeadLetterQueue").pop("SqsManagedSseEnabled"),
        "nobody thought of dead letters": lambda it: it["DeadLetterQueue"].pop("DeletionPolicy"),
    },
}


@pytest.mark.parametrize(("check", "fault"), [pytest.param(check, fault, id=fault) for check, faults in SEEDED_FAULTS.items() for fault in faults])
def test_a_seeded_fault_is_found_by_its_check(check, fault):
    template = copy.deepcopy(raw())
    SEEDED_FAULTS[check][fault](template["Resources"])
    [found_by] = [it for it in hub_checks.CHECKS if it.__name__ == check]
    assert list(found_by(deployed(template))), f"{check} does not find: {fault}"


def test_every_check_finds_a_seeded_fault():
    assert {it.__name__ for it in hub_checks.CHECKS} == SEEDED_FAULTS.keys()


@pytest.mark.parametrize(("name", "key", "value"), [("ForgetDays", "MinValue", 7), ("SilenceHours", "MinValue", 1)])
def test_a_member_that_is_forgotten_too_early_is_found(name, key, value):
    template = raw()
    template["Parameters"][name][key] = value
    assert list(hub_checks.a_member_is_silent_before_it_is_forgotten(template))


def test_every_parameter_is_described_grouped_and_used():
    template = raw()
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(template["Parameters"])
    body = json.dumps({key: template[key] for key in ("Conditions", "Resources")})
    for name, parameter in template["Parameters"].items():
        assert len(parameter["Description"]) > 20, name
        assert ("Default" in parameter) == (name != "OrganizationId"), name
        assert {"AllowedValues", "AllowedPattern", "MinValue"} & parameter.keys(), name
        assert f'"Ref": "{name}"' in body, f"{name} is not used"


def test_the_manual_names_every_parameter_alarm_and_output_of_the_hub():
    template = raw()
    [section] = re.findall(r"^## The hub\n(.*?)^## ", MANUAL, re.DOTALL | re.MULTILINE)
    alarms = [name for name, it in template["Resources"].items() if it["Type"] == "AWS::CloudWatch::Alarm"]
    for name in [*template["Parameters"], *alarms, *template["Outputs"]]:
        assert f"`{name}`" in section, name


def cells(text):
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines() if row.startswith("|")]


def product(text):
    """What a product or quotient in words comes to, units left out."""
    result = 1.0
    for sign, number in re.findall(r"(/?) ?(\d[\d,]*(?:\.\d+)?)", text):
        factor = float(number.replace(",", ""))
        result = result / factor if sign else result * factor
    return result


def computed(arithmetic):
    """What an arithmetic of the manual comes to; what stands before a sign of equality must equal the number behind it."""
    total = 0.0
    for term in arithmetic.split(";")[0].split(" + "):
        before, _, after = term.rpartition("=")
        if before:
            first = re.search(r"[\d,.]+", after)[0]
            expected = product(before) / (1_000_000 if "kB" in before else 1)
            assert product(first) == pytest.approx(expected, rel=0.01), term
        total += product(after)
    return total


def test_the_costs_of_the_hub_are_what_their_arithmetic_comes_to():
    section = MANUAL.split("### What the hub costs")[1].split("### ")[0]
    rows = [row for row in cells(section)[2:] if row[0]]
    [total] = [row[2].strip("*") for row in cells(section) if not row[0]]
    assert sum(round(float(row[2]) * 100) for row in rows) == round(float(total) * 100)
    said = {row[0].split(",")[0]: row[1] for row in rows}
    resources = deployed()
    # CloudWatch charges for each metric that an alarm looks at.
    alarms = sum(len(hub_checks.series_of(it)) for it in hub_checks.of_type(resources, "AWS::CloudWatch::Alarm").values())
    for item, number in {"alarms": alarms, "dashboard": len(hub_checks.of_type(resources, "AWS::CloudWatch::Dashboard"))}.items():
        assert int(said[item].split(" ×")[0]) == number, item
    for name, arithmetic, price in rows:
        assert computed(arithmetic) == pytest.approx(float(price), abs=0.006), name


def test_the_hub_counts_a_result_for_each_launch_that_the_members_count():
    section = MANUAL.split("### What the hub costs")[1].split("### ")[0]
    [launches] = re.findall(r"^A month with ([\d,]+) launches", MANUAL, re.MULTILINE)
    digests, results = 400 * 730, 400 * int(launches.replace(",", ""))
    said = {row[0].split(",")[0]: row[1] for row in cells(section)[2:]}
    assert f"400 × {launches} = {results:,} results" in said["EventBridge"]
    # Each goes through the machine and into the archive, and makes a line.
    [executions] = [row[1] for row in cells(section) if row[0] == "Step Functions, each digest and result"]
    assert executions.startswith(f"{digests + results:,} ×") and said["archive"].startswith(f"{digests + results:,} × 3 kB")
    assert f"{results:,} × 0.6 kB" in said["log"]
    [(arithmetic, price)] = re.findall(r"`ResultEmail` costs (.+?) = US\$ ([\d.]+)", section)
    assert arithmetic.startswith(f"{results:,} messages") and product(arithmetic) == float(price)
