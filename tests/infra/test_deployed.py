"""The stack, really deployed: to an emulator of AWS, with the real binary, at work on a local EC2.

What the emulator lacks is said where it matters. Events of source `aws.ec2` can't be sent by
anybody but AWS, so the way from a rule on is tried with twins of the rules that receive `test.ec2`.
"""

import copy
import itertools
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from conftest import eventually
from template import ROOT

SAMPLES = {str(path.relative_to(ROOT / "events").with_suffix("")): path.read_text() for path in (ROOT / "events").glob("*/*.json") if path.parent.name != "schema"}
EVENTS = {
    name: json.loads(text) for name, text in SAMPLES.items() if name not in ("Other/no-event", "Other/no-object") and "Records" not in text[:20]
}
INSTANCE_IDS = (f"i-0{number:016x}" for number in itertools.count(0xF0000))

RECEIVED = {
    "LaunchRuleName": {
        "RunInstances/already-required",
        "RunInstances/asks-for-optional",
        "RunInstances/auto-scaling",
        "RunInstances/ec2-fleet",
        "RunInstances/eks-node-group",
        "RunInstances/exempt",
        "RunInstances/hundred",
        "RunInstances/managed-by-eks",
        "RunInstances/managed-with-optional-tokens",
        "RunInstances/omitted",
        "RunInstances/omitted-without-a-readable-time",
        "RunInstances/one",
        "RunInstances/one-malformed-id",
        "RunInstances/request-only",
        "RunInstances/single-item-and-missing-fields",
        "RunInstances/three",
        "RunInstances/unknown-to-ec2",
        "Other/another-region",  # a rule receives events of its own Region alone: EventBridge never offers it this one
    },
    "ChangeRuleName": {
        "ModifyInstanceMetadataOptions/downgrade-to-optional",
        "ModifyInstanceMetadataOptions/endpoint-disabled",
        "ModifyInstanceMetadataOptions/endpoint-enabled-without-tokens",
        "ModifyInstanceMetadataOptions/flat-parameters",
        "ModifyInstanceMetadataOptions/unknown-to-ec2",
    },
    "StateChangeRuleName": {"StateChange/of-a-launch", "StateChange/pending", "StateChange/running"},
}


@pytest.fixture
def instance_id():
    """An id that no other test uses."""
    return next(INSTANCE_IDS)


def launch(instance_id):
    """A RunInstances event of one instance, of now."""
    event = copy.deepcopy(EVENTS["RunInstances/one"])
    event["detail"]["responseElements"]["instancesSet"]["items"] = [{"instanceId": instance_id}]
    event["time"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return event


def changed(name, *path, to=None):
    """A sample with the value at a path replaced, or without it."""
    event = copy.deepcopy(EVENTS[name])
    place = event
    for key in path[:-1]:
        place = place[key]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return event


def invoke(aws, stack, event, kind="RequestResponse"):
    answer = aws("lambda").invoke(FunctionName=stack["FunctionName"], InvocationType=kind, Payload=json.dumps(event))
    return answer, answer["Payload"].read()


def pattern(aws, stack, rule):
    return aws("events").describe_rule(Name=stack[rule])["EventPattern"]


def matches(aws, event_pattern, event):
    return aws("events").test_event_pattern(EventPattern=event_pattern, Event=json.dumps(event))["Result"]


@pytest.mark.parametrize("rule", RECEIVED)
def test_a_rule_receives_what_it_must_and_nothing_else(aws, stack, rule):
    event_pattern = pattern(aws, stack, rule)
    assert {name for name, event in EVENTS.items() if matches(aws, event_pattern, event)} == RECEIVED[rule]


def only_named_downgrades(detail):
    detail["requestParameters"] = {"ModifyInstanceMetadataOptionsRequest": {"HttpTokens": ["optional"]}}


def only_with_request_parameters(detail):
    detail["requestParameters"]["ModifyInstanceMetadataOptionsRequest"]["InstanceId"] = [{"exists": True}]


def only_launches_with_ids(detail):
    detail["responseElements"] = {"instancesSet": {"items": {"instanceId": [{"exists": True}]}}}


@pytest.mark.parametrize(
    ("rule", "seed"),
    [
        ("ChangeRuleName", only_named_downgrades),
        ("ChangeRuleName", only_with_request_parameters),
        ("LaunchRuleName", only_launches_with_ids),
    ],
)
def test_a_pattern_that_misses_an_event_is_found(aws, stack, rule, seed):
    faulty = json.loads(pattern(aws, stack, rule))
    seed(faulty["detail"])
    received = {name for name, event in EVENTS.items() if matches(aws, json.dumps(faulty), event)}
    assert received < RECEIVED[rule]


def test_near_misses_are_not_received(aws, stack):
    downgrade = "ModifyInstanceMetadataOptions/downgrade-to-optional"
    nested = ("detail", "requestParameters", "ModifyInstanceMetadataOptionsRequest")
    launches, changes, state_changes = (pattern(aws, stack, rule) for rule in RECEIVED)
    for event in [
        changed("RunInstances/one", "source", to="aws.autoscaling"),
        changed("RunInstances/one", "detail-type", to="AWS Service Event via CloudTrail"),
        changed("RunInstances/one", "detail", "eventName", to="RunInstance"),
        changed("RunInstances/one", "detail", "eventSource", to="autoscaling.amazonaws.com"),
        changed("RunInstances/one", "detail", "errorCode", to="Client.Unsupported"),
        changed(downgrade, "detail", "errorCode", to="Client.InvalidParameterValue"),
        changed(downgrade, "detail", "eventName", to="ModifyInstanceMetadataDefaults"),
        changed(downgrade, *nested, "HttpTokens", to="required"),
        changed("ModifyInstanceMetadataOptions/flat-parameters", "detail", "requestParameters", "httpTokens", to="required"),
    ]:
        assert not matches(aws, launches, event) and not matches(aws, changes, event), event["detail"]
    for state in ["stopping", "stopped", "shutting-down", "terminated"]:
        assert not matches(aws, state_changes, changed("StateChange/running", "detail", "state", to=state))


def test_near_hits_are_received(aws, stack):
    """One violator, no ids, no options in the event: whatever may leave an instance open comes through."""
    downgrade = "ModifyInstanceMetadataOptions/downgrade-to-optional"
    nested = ("detail", "requestParameters", "ModifyInstanceMetadataOptionsRequest")
    mixed = copy.deepcopy(EVENTS["RunInstances/three"])
    items = mixed["detail"]["responseElements"]["instancesSet"]["items"]
    items[0]["metadataOptions"]["httpTokens"] = items[1]["metadataOptions"]["httpTokens"] = "required"
    del items[2]["metadataOptions"]
    launches, changes = pattern(aws, stack, "LaunchRuleName"), pattern(aws, stack, "ChangeRuleName")
    for event in [
        changed("RunInstances/one", "detail", "errorCode", to=""),
        changed("RunInstances/one", "detail", "responseElements"),
        changed("RunInstances/one", "detail", "userAgent"),
        mixed,
    ]:
        assert matches(aws, launches, event), event["detail"]
        assert not matches(aws, changes, event), event["detail"]
    for event in [
        changed(downgrade, *nested, "HttpTokens", to="Required"),
        changed(downgrade, *nested, "HttpTokens"),
        changed(downgrade, *nested, to={"omitted": True}),
        changed(downgrade, "detail", "requestParameters"),
        changed(downgrade, "detail", "errorCode", to=""),
    ]:
        assert matches(aws, changes, event), event["detail"]
        assert not matches(aws, launches, event), event["detail"]


def test_it_enforces_and_a_second_event_writes_nothing(aws, stack, local_ec2, instance_id):
    local_ec2.put(instance_id)
    answer, payload = invoke(aws, stack, launch(instance_id))
    assert "FunctionError" not in answer, payload
    assert json.loads(payload)["counts"]["enforced"] == 1
    assert local_ec2.tokens(instance_id) == "required"
    writes = local_ec2.writes()
    assert json.loads(invoke(aws, stack, launch(instance_id))[1])["counts"]["compliant"] == 1
    assert local_ec2.writes() == writes


def test_a_failure_goes_on_in_the_queue_and_a_dead_letter_can_be_sent_again(aws, stack, local_ec2, instance_id):
    """What three attempts could not do is in the queue of launches, which takes a dead letter too.

    The emulator keeps a failed event in the form of an on-failure destination, as `requestPayload`,
    where AWS keeps it as it came; so what is in its queue is no event that the function can read, and
    the test sends the event itself. Nor has the emulator StartMessageMoveTask, which does that on AWS.
    """
    sqs, event = aws("sqs"), launch(instance_id)
    answer, payload = invoke(aws, stack, event)
    assert answer["FunctionError"] and json.loads(payload)["errorType"] == "EnforcementIncomplete"
    [source] = aws("lambda").list_event_source_mappings(FunctionName=stack["FunctionName"])["EventSourceMappings"]
    aws("lambda").update_event_source_mapping(UUID=source["UUID"], Enabled=False)
    invoke(aws, stack, event, "Event")

    def failed():
        received = sqs.receive_message(QueueUrl=stack["LaunchQueueUrl"], MaxNumberOfMessages=10, VisibilityTimeout=1)
        return next((it for it in received.get("Messages", []) if instance_id in it["Body"]), None)

    message = eventually(failed, "the event is in the queue of launches")
    assert json.loads(message["Body"])["requestPayload"] == event
    sqs.delete_message(QueueUrl=stack["LaunchQueueUrl"], ReceiptHandle=message["ReceiptHandle"])
    aws("lambda").update_event_source_mapping(UUID=source["UUID"], Enabled=True)

    local_ec2.put(instance_id)
    sqs.send_message(QueueUrl=stack["LaunchQueueUrl"], MessageBody=json.dumps(event))
    eventually(lambda: local_ec2.tokens(instance_id) == "required", "the event that was sent again is looked after")


def detail_of_state(instance_id, state):
    return {"instance-id": instance_id, "state": state}


def detail_of_launch(instance_id, error_code):
    return launch(instance_id)["detail"] | {"errorCode": error_code}


def detail_of_change(instance_id, http_tokens):
    event = copy.deepcopy(EVENTS["ModifyInstanceMetadataOptions/downgrade-to-optional"])
    event["detail"]["requestParameters"]["ModifyInstanceMetadataOptionsRequest"] |= {"InstanceId": instance_id, "HttpTokens": http_tokens}
    return event["detail"]


CLOUDTRAIL = "AWS API Call via CloudTrail"


@pytest.mark.parametrize(
    ("rule", "lane", "detail_type", "detail", "ignored", "received"),
    [
        ("StateChangeRuleName", "LaunchQueueArn", "EC2 Instance State-change Notification", detail_of_state, "terminated", "running"),
        ("LaunchRuleName", "LaunchQueueArn", CLOUDTRAIL, detail_of_launch, "Client.Unsupported", ""),
        ("ChangeRuleName", "FunctionArn", CLOUDTRAIL, detail_of_change, "required", "optional"),
    ],
    ids=["state change", "launch", "change"],
)
def test_what_a_rule_receives_goes_its_way_to_the_function(aws, stack, local_ec2, instance_id, rule, lane, detail_type, detail, ignored, received):
    events = aws("events")
    twin = json.loads(pattern(aws, stack, rule)) | {"source": ["test.ec2"]}
    name = f"twin-of-{stack[rule]}"
    events.put_rule(Name=name, EventPattern=json.dumps(twin))
    [target] = events.list_targets_by_rule(Rule=stack[rule])["Targets"]
    assert target["Arn"] == stack[lane] and target["DeadLetterConfig"]["Arn"] == stack["DeadLetterQueueArn"]
    events.put_targets(Rule=name, Targets=[{"Id": "twin", "Arn": target["Arn"]}])

    local_ec2.put(instance_id)
    entry = {"Source": "test.ec2", "DetailType": detail_type}
    for word in [ignored, received]:
        sent = events.put_events(Entries=[entry | {"Detail": json.dumps(detail(instance_id, word))}])
        assert sent["FailedEntryCount"] == 0
    eventually(lambda: local_ec2.tokens(instance_id) == "required", "the event is looked after")
    events.remove_targets(Rule=name, Ids=["twin"])


def test_the_queue_hands_over_batches_and_takes_failures_back(aws, stack):
    [source] = aws("lambda").list_event_source_mappings(FunctionName=stack["FunctionName"])["EventSourceMappings"]
    assert source["EventSourceArn"] == stack["LaunchQueueArn"]
    assert (source["BatchSize"], source["MaximumBatchingWindowInSeconds"]) == (200, 2)
    assert source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    queue = aws("sqs").get_queue_attributes(QueueUrl=stack["LaunchQueueUrl"], AttributeNames=["All"])["Attributes"]
    assert json.loads(queue["RedrivePolicy"])["deadLetterTargetArn"] == stack["DeadLetterQueueArn"]
    assert int(queue["VisibilityTimeout"]) == 362
    assert int(json.loads(queue["RedrivePolicy"])["maxReceiveCount"]) == 60


def test_the_sweep_is_scheduled_and_admitted(aws, stack):
    rule = aws("events").describe_rule(Name=stack["SweepRuleName"])
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(1 hour)", "ENABLED")
    policy = json.loads(aws("lambda").get_policy(FunctionName=stack["FunctionName"])["Policy"])
    admitted = str([statement["Condition"] for statement in policy["Statement"]])
    assert rule["Arn"] in admitted and stack["ChangeRuleName"] in admitted
    assert stack["LaunchRuleName"] not in admitted and stack["StateChangeRuleName"] not in admitted


@pytest.fixture
def inbox(aws):
    """A queue, and what comes into it."""
    sqs = aws("sqs")
    url = sqs.create_queue(QueueName="inbox")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    def received(what):
        def find():
            found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=1)
            return next((it["Body"] for it in found.get("Messages", []) if what in it["Body"]), None)

        return eventually(find, f"{what} is received")

    yield arn, received
    sqs.delete_queue(QueueUrl=url)


def result_bus(aws, stack):
    variables = aws("lambda").get_function_configuration(FunctionName=stack["FunctionName"])["Environment"]["Variables"]
    return variables["IMDS_RESULT_BUS"]


def test_a_result_comes_by_the_bus_as_its_schema_says(aws, stack, local_ec2, instance_id, inbox):
    arn, received = inbox
    events, bus = aws("events"), result_bus(aws, stack)
    events.put_rule(Name="consumer", EventBusName=bus, EventPattern=json.dumps({"detail-type": ["IMDS Tokens Required"]}))
    events.put_targets(Rule="consumer", EventBusName=bus, Targets=[{"Id": "inbox", "Arn": arn}])
    local_ec2.put(instance_id)
    payload = json.loads(invoke(aws, stack, launch(instance_id))[1])
    assert payload["results"] == {"published": 1, "unpublished": 0}

    event = json.loads(received(instance_id))
    entry = {"Source": event["source"], "DetailType": event["detail-type"], "Detail": json.dumps(event["detail"])}
    command = [sys.executable, ROOT / "tests/it/consumer.py"]
    consumer = subprocess.run(command, input=json.dumps([entry]), capture_output=True, text=True, check=False)
    assert (consumer.stdout.strip(), consumer.stderr) == ('{"IMDS Tokens Required": 1}', "")
    assert event["detail"]["cause"]["kind"] == "defaults"
    events.remove_targets(Rule="consumer", EventBusName=bus, Ids=["inbox"])


def test_a_result_comes_as_a_message_that_people_can_read(aws, stack, local_ec2, instance_id, inbox):
    arn, received = inbox
    subscription = aws("sns").subscribe(TopicArn=stack["ResultTopicArn"], Protocol="sqs", Endpoint=arn)
    local_ec2.put(instance_id, **{"aws:autoscaling:groupName": "web-blue", "aws:ec2launchtemplate:id": "lt-1"})
    invoke(aws, stack, launch(instance_id))
    message = json.loads(received(instance_id))["Message"]
    for part in [
        "session tokens are now required",
        f"Where: {instance_id} in us-east-1, account ",
        "Who: arn:aws:sts::111122223333:assumed-role/ci-deployer/pipeline-481 from ",
        "Cause: auto_scaling_group, launch template lt-1",
        "Command: aws ec2 modify-launch-template --region us-east-1 --launch-template-id lt-1",
    ]:
        assert part in message
    # EventBridge puts quotes around each line; there are no others, whatever the values hold.
    for line in message.split("\n"):
        assert line[0] == line[-1] == '"' and not set('"\\') & set(line[1:-1]), line
    aws("sns").unsubscribe(SubscriptionArn=subscription["SubscriptionArn"])


def test_an_exemption_is_used_while_it_lasts(aws, stack, local_ec2, instance_id):
    day = datetime.now(UTC).date()
    local_ec2.put(instance_id, **{"imds-exemption": f"{day + timedelta(days=1)} until tomorrow"})
    report = json.loads(invoke(aws, stack, launch(instance_id))[1])
    assert report["counts"]["exempt"] == 1
    assert report["instances"][0]["exemption"] == {"until": str(day + timedelta(days=1)), "reason": "until tomorrow"}
    local_ec2.put(instance_id, **{"imds-exemption": f"{day - timedelta(days=1)} until yesterday"})
    report = json.loads(invoke(aws, stack, launch(instance_id))[1])
    assert report["counts"]["enforced"] == 1
    assert "ended" in report["instances"][0]["no_exemption"]


def test_the_sweep_spares_what_is_old_and_was_in_use_as_cloudwatch_saw(aws, stack, local_ec2, instance_id):
    now = datetime.now(UTC)
    idle, young = next(INSTANCE_IDS), next(INSTANCE_IDS)
    for old in (instance_id, idle):
        local_ec2.put(old, created=now - timedelta(days=30))
    local_ec2.put(young, created=now - timedelta(hours=1))
    for used in (instance_id, young):
        for days, calls in [(1, 5), (3, 7), (30, 100)]:
            sample = {"MetricName": "MetadataNoToken", "Dimensions": [{"Name": "InstanceId", "Value": used}]}
            when = now - timedelta(days=days)
            aws("cloudwatch").put_metric_data(Namespace="AWS/EC2", MetricData=[sample | {"Timestamp": when, "Value": calls}])
    report = json.loads(invoke(aws, stack, EVENTS["ScheduledEvent/rule"])[1])
    assert "errorType" not in report, report
    outcomes = {it["instance_id"]: it for it in report["instances"]}
    assert [outcomes[it]["outcome"] for it in (idle, young)] == ["enforced", "enforced"]
    spared = outcomes[instance_id]
    assert (spared["outcome"], spared["calls_without_token"], spared["in_days"]) == ("in_use", 12, 14)
    assert local_ec2.tokens(instance_id) == "optional"
