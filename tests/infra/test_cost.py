"""What a month costs: arithmetic on what the template has and what the simulated month measured.

The prices are AWS's list prices in us-east-1, without free tiers. It knows no discounts, and no price
of what is deployed beside the stack. Its tables stand in the manual.
"""

import copy
import re

import checks
import pytest
import sam
import template as templates

# https://aws.amazon.com/cloudwatch/pricing/, /lambda/pricing/, /sqs/pricing/, /eventbridge/pricing/,
# /sns/pricing/, /xray/pricing/, /kms/pricing/, in US$.
METRIC = 0.30  # a month, for the hours in which it is sent
ALARM_METRIC = 0.10  # a month, for each metric that an alarm looks at
DASHBOARD = 3.00  # a month
LOG_GB, LOG_GB_KEPT = 0.50, 0.03
METRICS_ASKED = 0.01 / 1000  # by GetMetricData
INVOCATION, GB_SECOND = 0.20 / 1e6, 0.0000166667
QUEUE_REQUEST = 0.40 / 1e6
RESULT = 1.00 / 1e6
MAIL = 2.00 / 100_000
TRACE = 5.00 / 1e6
KEY, KEY_REQUEST = 1.00, 0.03 / 10_000

HOURS = 730
LAUNCHES = 10_000
# A launch is a state change to pending, one to running, and CloudTrail's event, each at worst a batch.
BATCHES = 3 * LAUNCHES
POLLS = 5 * 3 * 60 * HOURS  # five pollers, three times a minute

MANUAL = (templates.ROOT / "infra/README.md").read_text()
MONTH = (templates.ROOT / "tests/README.md").read_text()

# What launches of instances without tokens send in every hour, where there are ten thousand in a month.
OF_LAUNCHES = {"InstancesExamined", "Ec2Calls", "InstancesEnforced", "TimeToEnforce"}


def measured_hours(deployment):
    """Of the simulated month, in how many of its hours each metric was sent, by deployment."""
    head = next(line for line in MONTH.splitlines() if line.startswith("|  | enforce |"))
    column = [cell.strip() for cell in head.strip("|").split("|")].index(deployment)
    rows = re.findall(r"^\| hours of (\d+) in which `(\w+)` was sent \|(.+)\|$", MONTH, re.MULTILINE)
    hours = {name: (cells.split("|")[column - 1].strip(), int(of)) for of, name, cells in rows}
    return {name: 0.0 if cell == "none" else int(cell) / of for name, (cell, of) in hours.items()}


def metrics(deployment):
    """Metrics by the share of the month in which each is sent."""
    return measured_hours(deployment) | dict.fromkeys(OF_LAUNCHES, 1.0)


def alarm_metrics(**parameters):
    alarms = checks.of_type(templates.resources(sam.raw(), EnforceSince="2026-11-02", **parameters), "AWS::CloudWatch::Alarm")
    return sum(len(checks.series_of(alarm)) for alarm in alarms.values())


def memory_gb():
    return sam.raw()["Resources"]["Function"]["Properties"]["MemorySize"] / 1024


def invocations(sweeps=HOURS):
    return BATCHES + sweeps


def others():
    """What is neither metrics nor alarms: what, how, and its price."""
    number, gb = invocations(), invocations() * 3e3 / 1e9
    seconds = number * 0.2 * memory_gb()
    return [
        ("Lambda requests", f"at most {BATCHES:,} batches of launches and state changes + {HOURS} sweeps = {number:,} × 0.20 / 1,000,000", number * INVOCATION),
        ("Lambda duration", f"{number:,} × 0.2 s × {memory_gb()} GB = {seconds:.0f} GB-s × 0.0000166667", seconds * GB_SECOND),
        ("SQS", f"{BATCHES:,} × 3 + polling, 5 pollers × 3 a minute × {60 * HOURS:,} minutes = {3 * BATCHES + POLLS:,} × 0.40 / 1,000,000", (3 * BATCHES + POLLS) * QUEUE_REQUEST),
        ("log", f"{number:,} × 3 kB, Lambda's own lines included = {gb:.2f} GB × (0.50 + 3 months × 0.03)", gb * (LOG_GB + 3 * LOG_GB_KEPT)),
        ("EventBridge", "events of AWS services, and deliveries to the same account, are free", 0.0),
    ]


def rows_of_a_month(deployment):
    sent = metrics(deployment)
    number, alarms = sum(sent.values()), alarm_metrics()
    every = ", ".join(f"`{name}`" for name in sorted(OF_LAUNCHES))
    rest = ", ".join(f"`{name}` {share:.0%}" for name, share in sorted(sent.items()) if name not in OF_LAUNCHES and share >= 0.005)
    return [
        ("metrics", f"in each hour {every}; of the hours, {rest} = {number:.2f} × 0.30", number * METRIC),
        ("alarms", f"{alarms} metrics that they look at × 0.10", alarms * ALARM_METRIC),
        *others(),
    ]


def total(rows):
    return sum(price for *_, price in rows)


def price_of_results(**parameters):
    added = alarm_metrics(**parameters) - alarm_metrics()
    return added * ALARM_METRIC + (LAUNCHES + HOURS) * RESULT


HUB = "arn:aws:events:us-east-1:444455556666:event-bus/imds-enforcer-hub"


def price_of_hub():
    """What HubBusArn adds to a stack, and by how many metrics of alarms."""
    return price_of_results(HubBusArn=HUB), alarm_metrics(HubBusArn=HUB) - alarm_metrics()


def options():
    """What each option adds, for the same launches."""
    watch = alarm_metrics(WatchRefusals="1") - alarm_metrics()
    own = price_of_results(ResultBus="security")
    others_bus = price_of_results(ResultBusArn="arn:aws:events:us-east-1:444455556666:event-bus/security")
    key_requests = 4 * 12 * HOURS
    hub, hub_metrics = price_of_hub()
    return [
        ("`Dashboard`", "one", DASHBOARD),
        ("`WatchRefusals`", f"{watch} alarm, a metric, and for each thousand instances that require tokens {HOURS} questions of 1,000 metrics × 0.01 / 1,000", watch * ALARM_METRIC + METRIC + HOURS * 1000 * METRICS_ASKED),
        ("`GraceDays`", "a metric, and a thousand old violators of which each is asked about once × 0.01 / 1,000", METRIC + 1000 * METRICS_ASKED),
        ("`SweepLimit`", "a metric, while anything is left over", METRIC),
        ("`ResultBus`", f"2 metrics of alarms, {LAUNCHES + HOURS:,} results × 1.00 / 1,000,000", own),
        ("`ResultEmail`", f"{LAUNCHES:,} messages × 2.00 / 100,000", LAUNCHES * MAIL),
        ("`ResultBusArn`", f"a metric of an alarm, {LAUNCHES + HOURS:,} results × 1.00 / 1,000,000", others_bus),
        ("`HubBusArn`", f"{hub_metrics} metrics of alarms, {LAUNCHES + HOURS:,} results × 1.00 / 1,000,000", hub),
        ("`XRay`", f"at most {invocations():,} traces × 5.00 / 1,000,000", invocations() * TRACE),
        ("`KmsKeyArn`", f"the key, and each five minutes four who use it = {key_requests:,} × 0.03 / 10,000", KEY + key_requests * KEY_REQUEST),
    ]


def table(head, rows):
    lines = [f"| {head} | arithmetic | US$ |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {how} | {price:.2f} |" for what, how, price in rows)])


BY_DEFAULT = "enforce since the first day, with the watch"


def text_of_the_manual():
    rows = rows_of_a_month(BY_DEFAULT)
    month = table("item", rows) + f"\n| | | **{total(rows):.2f}** |"
    one = round(total(rows), 2)
    hub = round(price_of_hub()[0], 2)
    organization = table(
        "organization",
        [
            ("each account and Region", "the table above, with 10,000 launches", one),
            ("100 accounts × 4 Regions", f"400 × {one:.2f}", 400 * one),
            ("the same, with `HubBusArn` in each, and without [the hub itself](#what-the-hub-costs)", f"400 × ({one:.2f} + {hub:.2f})", 400 * (one + hub)),
            ("100 accounts × 4 Regions, with a dashboard in each", f"400 × ({one:.2f} + 3.00)", 400 * (one + DASHBOARD)),
        ],
    )
    return f"""A month with {LAUNCHES:,} launches of one instance without tokens, at list prices in us-east-1 without free tiers (check today's), with `EnforceSince` a day and everything else by default. CloudWatch charges for a metric by the hours in which it is sent; what is not sent in each hour is taken from [the simulated month](../tests/README.md#a-month).

{month}

### What options cost

Each adds, in the same month:

{table("option", options())}

### What an organization costs

{organization}

An account with fewer launches pays less for metrics: without any, a sweep each hour sends `InstancesExamined` and `Ec2Calls` alone. Of an organization, CloudWatch's tiers make metrics beyond ten thousand cheaper. The hub itself has [a table of its own](#what-the-hub-costs)."""


def test_the_manual_has_the_arithmetic():
    expected = text_of_the_manual()
    assert expected in MANUAL, f"this belongs under What it costs:\n{expected}"


def test_a_month_costs_at_most_four_dollars_and_half_a_dollar_beside_metrics_and_alarms():
    for deployment in ("enforce", "observe", BY_DEFAULT):
        assert total(rows_of_a_month(deployment)) <= 4.00, deployment
    assert total(others()) <= 0.50


def test_what_costs_is_off_by_default():
    resources = templates.resources(EnforceSince="all")
    assert not checks.of_type(resources, "AWS::CloudWatch::Dashboard")
    assert not checks.of_type(resources, "AWS::Events::EventBus")
    parameters = sam.raw()["Parameters"]
    off = {"Dashboard": "off", "WatchRefusals": "off", "GraceDays": 0, "SweepLimit": 0, "ResultBus": "", "ResultBusArn": "", "HubBusArn": "", "XRay": "off", "KmsKeyArn": ""}
    assert {name: parameters[name]["Default"] for name in off} == off


def test_each_metric_of_the_code_is_either_of_every_hour_or_measured_in_the_month():
    source = (templates.ROOT / "src/report/metrics.rs").read_text().split("#[cfg(test)]")[0]
    names = set(re.findall(r'"((?:Instances|SweepInstances|Ec2|Results|TimeTo)\w+)"', source))
    always = set(re.findall(r'count\("(\w+)"', source))
    assert always == {"InstancesExamined", "Ec2Calls"}
    # These are of options that the month's deployments do not have, or of what never happens in it.
    never = {"InstancesLeftOver", "ResultsUnpublished"}
    assert names - never <= measured_hours("enforce").keys()


def each_failure_told_again(template):
    """An alarm for each rule that delivers again, beside that on losses."""
    stats = template["Resources"]["LostEventAlarm"]["Properties"]["Metrics"][1:5]
    again = copy.deepcopy(template["Resources"]["LostEventAlarm"])
    again["Properties"]["Metrics"] = [again["Properties"]["Metrics"][0], *stats]
    template["Resources"]["RetryAlarm"] = again


def more_memory(template):
    template["Resources"]["Function"]["Properties"]["MemorySize"] = 3008


@pytest.mark.parametrize("fault", [each_failure_told_again, more_memory])
def test_a_seeded_cost_is_found(fault, monkeypatch):
    template = copy.deepcopy(sam.raw())
    fault(template)
    monkeypatch.setattr(sam, "raw", lambda: template)
    assert total(rows_of_a_month(BY_DEFAULT)) > 4.00


def test_a_metric_that_is_sent_in_each_hour_is_found(monkeypatch):
    hours = measured_hours(BY_DEFAULT)
    monkeypatch.setitem(globals(), "measured_hours", lambda _: dict.fromkeys(hours, 1.0))
    assert total(rows_of_a_month(BY_DEFAULT)) > 4.00
