"""The CDK construct and the SAM template make the same: compared resource by resource, property by property."""

import json
import os
import re
import subprocess

import pytest
import template as templates
from template import ROOT

# What differs because it must, each with the reason; by logical id and property.
DIFFERENCES = {
    ("Function", "Code"): "SAM and CDK upload the same binary to buckets of their own",
    ("Function", "Tags"): "SAM tags a function lambda:createdBy",
    ("FunctionEventInvokeConfig", "DestinationConfig"): "SAM writes an empty one",
}

CONFIGURATIONS = [
    ({}, {}),
    ({"Mode": "observe"}, {"mode": "observe"}),
    (
        {"ApiCallEvents": "off", "StateChangeEvents": "off", "Sweep": "off"},
        {"apiCallEvents": "off", "stateChangeEvents": "off", "sweep": "off"},
    ),
    (
        {"AlarmEmail": "security@example.com", "ReservedConcurrency": 5, "Architecture": "arm64", "XRay": "on", "LogRetentionDays": 365},
        {"alarmEmail": "security@example.com", "reservedConcurrency": 5, "architecture": "arm64", "xray": "on", "logRetention": 365},
    ),
    (
        {"ExemptionTag": "imds-exemption", "ExemptionMaxDays": 30, "SweepGraceDays": 14, "ResultBus": "security-imds", "ResultEmail": "security@example.com"},
        {"exemptionTag": "imds-exemption", "exemptionMaxDays": 30, "sweepGraceDays": 14, "resultBus": "security-imds", "resultEmail": "security@example.com"},
    ),
    (
        {"ResultBusArn": "arn:aws:events:us-east-1:444455556666:event-bus/all", "Dashboard": "off", "TimeToEnforceAlarmMilliseconds": 60000, "Mode": "observe"},
        {"resultBusArn": "arn:aws:events:us-east-1:444455556666:event-bus/all", "dashboard": "off", "timeToEnforceAlarmMilliseconds": 60000, "mode": "observe"},
    ),
    (
        {"KmsKeyArn": "arn:aws:kms:us-east-1:111122223333:key/k", "SweepSchedule": "cron(0 3 * * ? *)", "SweepAlarmHours": 24},
        {"keyArn": "arn:aws:kms:us-east-1:111122223333:key/k", "sweepSchedule": "cron(0 3 * * ? *)", "sweepAlarmHours": 24},
    ),
]


def of_cdk(folder, context):
    """The resources of the CDK app, as `cdk synth -c …` makes them, under the names of the SAM template."""
    code = folder / "code"
    code.mkdir()
    (code / "bootstrap").write_text("stands for the binary")
    variables = {"CDK_OUTDIR": str(folder / "out"), "CDK_CONTEXT_JSON": json.dumps({**context, "code": str(code)})}
    command = ["npx", "--no-install", "tsx", "app.ts"]
    done = subprocess.run(command, cwd=ROOT / "infra/cdk", env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    synthesized = json.loads((folder / "out/imds-enforcer-cdk.template.json").read_text())
    resources = templates.Resolver(synthesized, {}).resources()
    text = json.dumps({name: it for name, it in resources.items() if it["Type"] != "AWS::CDK::Metadata"})
    return json.loads(re.sub(r"\bImdsEnforcer(\w+?)[0-9A-F]{8}\b", r"\1", text))


def comparable(node):
    """Without what has no meaning: the order of policies and of actions, how a number is spelled, and the blanks of a dashboard."""
    if isinstance(node, dict):
        parsed = {key: json.loads(value) if key == "DashboardBody" else value for key, value in node.items()}
        return {key: comparable(value) for key, value in parsed.items()}
    if isinstance(node, list):
        items = [comparable(item) for item in node]
        by_name = all(isinstance(item, dict) and "PolicyName" in item for item in items)
        return sorted(items, key=lambda item: item["PolicyName"]) if by_name else items
    if isinstance(node, bool) or node is None:
        return node
    return str(node)


@pytest.mark.parametrize(("parameters", "context"), CONFIGURATIONS, ids=[",".join(context) or "default" for _, context in CONFIGURATIONS])
def test_sam_and_cdk_make_the_same(tmp_path, parameters, context):
    sam, cdk = templates.resources(**parameters), of_cdk(tmp_path, context)
    assert sorted(sam) == sorted(cdk)
    different = {}
    for name in sam:
        ours, theirs = comparable(sam[name]), comparable(cdk[name])
        for resource, key in DIFFERENCES:
            if resource == name:
                ours["Properties"].pop(key, None)
                theirs["Properties"].pop(key, None)
        if ours != theirs:
            different[name] = (ours, theirs)
    assert different == {}


def test_a_difference_is_seen(tmp_path):
    sam, cdk = templates.resources(), of_cdk(tmp_path, {"mode": "observe"})
    assert comparable(sam["FunctionRole"]) != comparable(cdk["FunctionRole"])
    assert comparable(sam["StateChangeQueue"]) == comparable(cdk["StateChangeQueue"])
