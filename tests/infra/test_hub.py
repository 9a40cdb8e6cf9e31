"""The hub and two members, in two accounts and three Regions, deployed to an emulator of AWS.

The members run the real binary on the local EC2. The emulator has no archive and no policy of a bus in
its CloudFormation, and evaluates none: both are left out here, and `infra/hub.test.ts` evaluates the
policy. The way from one account to another is `accounts.py`'s, and events of CloudWatch are sent by the
tests, since the emulator's alarms send none. No schedule runs here: the tests start the watch.
"""

import copy
import itertools
import json
import os
import re
import subprocess
from datetime import UTC, datetime, timedelta

import boto3
import hub as hub_command
import pytest
import sam
import stack as stacks
from botocore.config import Config
from conftest import BIN, KEYS, MINISTACK, NO_FILES, PATIENCE_SECONDS, eventually, free_port, run, serving
from samcli.yamlhelper import yaml_parse
from template import ROOT

TEMPLATE = ROOT / "infra/hub.yaml"
SECURITY, MEMBER, STRANGER = "444455556666", "111122223333", "777788889999"
HOME, REGIONS = "eu-west-1", ["us-east-1", "eu-central-1"]
ORGANIZATION = "o-a1b2c3d4e5"
INSTANCE_IDS = (f"i-0{number:016x}" for number in itertools.count(0xE0000))
UNKNOWN_TO_THE_EMULATOR = {"AWS::Events::Archive", "AWS::Events::EventBusPolicy"}


def text_of(template):
    """What of a template the emulator knows."""
    known = copy.deepcopy(template)
    left_out = {name for name, it in known["Resources"].items() if it["Type"] in UNKNOWN_TO_THE_EMULATOR}
    known["Resources"] = {name: it for name, it in known["Resources"].items() if name not in left_out}
    known["Outputs"] = {name: it for name, it in known["Outputs"].items() if not any(f"{gone}." in json.dumps(it) for gone in left_out)}
    return json.dumps(known)


class Accounts:
    """Clients of the emulator: an access key of twelve digits is that account's."""

    def __init__(self, endpoint):
        self.endpoint = endpoint

    def __call__(self, service, account=SECURITY, region=HOME):
        patient = Config(read_timeout=PATIENCE_SECONDS, retries={"total_max_attempts": 1})
        return self.session(account).client(service, region_name=region, endpoint_url=self.endpoint, config=patient)

    def session(self, account):
        return boto3.Session(account, "not-a-secret", region_name=HOME)

    def deploy(self, name, template, parameters, account=SECURITY, region=HOME):
        """Deploys a stack, and answers its outputs."""
        stack = stacks.Stack(self.session(account), region, name)
        stack.client = self("cloudformation", account, region)
        if change := stack.change(template, parameters, ["CAPABILITY_IAM"]):
            change.execute()
        return stack.current()["outputs"]


@pytest.fixture(scope="module")
def accounts(tmp_path_factory):
    port, folder = free_port(), tmp_path_factory.mktemp("accounts")
    variables = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "IOT_MTLS_ENABLED": "0"}
    with serving([MINISTACK[0], ROOT / "tests/infra/accounts.py"], port, folder / "log", **variables) as endpoint:
        yield Accounts(endpoint)


@pytest.fixture(scope="module")
def hub(accounts):
    return accounts.deploy("imds-enforcer-hub", text_of(yaml_parse(TEMPLATE.read_text())), {"OrganizationId": ORGANIZATION})


@pytest.fixture(scope="module")
def members(accounts, hub, local_ec2):
    """The functions of the members by Region, at work on the local EC2."""
    run(["make", "package"], ".")
    zipped = (ROOT / "target/imds-enforcer.zip").read_bytes()
    return {region: deployed_member(accounts, hub, local_ec2, zipped, region) for region in REGIONS}


def deployed_member(accounts, hub, local_ec2, zipped, region):
    s3, bucket = accounts("s3", MEMBER, region), f"imds-enforcer-{MEMBER}-{region}"
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    s3.create_bucket(Bucket=bucket, **place)
    s3.put_object(Bucket=bucket, Key="function.zip", Body=zipped)
    template = sam.transformed(sam.of_package(zipped), f"s3://{bucket}/function.zip")
    given = {"EnforceSince": "all", "HubBusArn": hub["HubBusArn"]}
    outputs = accounts.deploy("imds-enforcer", json.dumps(template), given, MEMBER, region)
    functions = accounts("lambda", MEMBER, region)
    variables = functions.get_function_configuration(FunctionName=outputs["FunctionName"])["Environment"]["Variables"]
    assert variables["IMDS_RESULT_BUS"] == hub["HubBusArn"]
    endpoints = {"AWS_ENDPOINT_URL_EC2": local_ec2.endpoint, "AWS_ENDPOINT_URL_EVENTBRIDGE": accounts.endpoint}
    credentials = {"AWS_ACCESS_KEY_ID": MEMBER, "AWS_SECRET_ACCESS_KEY": KEYS["AWS_SECRET_ACCESS_KEY"]}
    functions.update_function_configuration(FunctionName=outputs["FunctionName"], Environment={"Variables": variables | endpoints | credentials})
    return outputs


def invoke(accounts, members, region, event):
    """Invokes a member's function by an event of its Region, and answers its report."""
    sent = event | {"region": region, "time": now(), "account": MEMBER}
    answer = accounts("lambda", MEMBER, region).invoke(FunctionName=members[region]["FunctionName"], Payload=json.dumps(sent))
    report = json.loads(answer["Payload"].read())
    assert "FunctionError" not in answer, report
    assert report["results"]["unpublished"] == 0, report
    return report


def now(**ago):
    return (datetime.now(UTC) - timedelta(**ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


def sample(name):
    return json.loads((ROOT / f"events/{name}.json").read_text())


def launch(instance_id):
    event = sample("RunInstances/one")
    event["detail"]["responseElements"]["instancesSet"]["items"] = [{"instanceId": instance_id}]
    return event


def sweep(identity):
    return sample("ScheduledEvent/rule") | {"id": identity}


@pytest.fixture(scope="module")
def inboxes(accounts, hub):
    """What comes to the subscribers of the hub's two topics: a function that waits for a text in one."""
    sqs, urls = accounts("sqs"), {}
    for topic in ("ResultTopicArn", "AlarmTopicArn"):
        urls[topic] = sqs.create_queue(QueueName=topic)["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=urls[topic], AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        accounts("sns").subscribe(TopicArn=hub[topic], Protocol="sqs", Endpoint=arn)
    kept = {topic: [] for topic in urls}

    def messages(topic):
        for it in sqs.receive_message(QueueUrl=urls[topic], MaxNumberOfMessages=10).get("Messages", []):
            sqs.delete_message(QueueUrl=urls[topic], ReceiptHandle=it["ReceiptHandle"])
            kept[topic].append(json.loads(it["Body"])["Message"])
        return kept[topic]

    def received(topic, what):
        return eventually(lambda: next((it for it in messages(topic) if what in it), None), f"{what} is received")

    received.messages = messages
    return received


def lines(accounts, hub, kind):
    """The log's lines of a kind."""
    pages = accounts("logs").get_paginator("filter_log_events").paginate(logGroupName=hub["LogGroupName"])
    found = [json.loads(event["message"]) for page in pages for event in page["events"]]
    return [it for it in found if it["line"] == kind]


def member_of(accounts, hub, region, account=MEMBER):
    key = {"member": {"S": f"{account}/{region}"}}
    return accounts("dynamodb").get_item(TableName=hub["MembersTable"], Key=key, ConsistentRead=True).get("Item")


def put_member(accounts, hub, region, last, ttl=None):
    """A member whose last digest was at a time, in seconds."""
    numbers = {"last": {"N": str(last)}, "ttl": {"N": str(ttl or last + 30 * 86400)}}
    item = {"member": {"S": f"{MEMBER}/{region}"}, "account": {"S": MEMBER}, "region": {"S": region}, **numbers}
    accounts("dynamodb").put_item(TableName=hub["MembersTable"], Item=item)


def seconds(**ago):
    return int((datetime.now(UTC) - timedelta(**ago)).timestamp())


def executed(accounts, machine, given="{}"):
    """Starts a state machine and waits until it succeeded."""
    client = accounts("stepfunctions")
    arn = client.start_execution(stateMachineArn=machine, input=given)["executionArn"]
    done = eventually(lambda: (it := client.describe_execution(executionArn=arn))["status"] != "RUNNING" and it, "the execution ends")
    assert done["status"] == "SUCCEEDED", (done.get("error"), done.get("cause"))


def watched(accounts, hub):
    """Looks for silence once, and answers how many were silent as the metric says."""
    before = datetime.now(UTC) - timedelta(seconds=1)
    executed(accounts, hub["WatchArn"])
    question = {"Namespace": "ImdsEnforcer", "MetricName": "SilentMembers", "Dimensions": [{"Name": "Hub", "Value": "imds-enforcer-hub"}]}
    hours = {"StartTime": before - timedelta(hours=1), "EndTime": before + timedelta(hours=1), "Period": 3600}
    points = accounts("cloudwatch").get_metric_statistics(**question, **hours, Statistics=["Sum", "SampleCount"])["Datapoints"]
    return sum(it["Sum"] for it in points), sum(it["SampleCount"] for it in points)


@pytest.mark.parametrize("region", REGIONS)
def test_an_enforcement_arrives_as_the_hubs_message(accounts, members, local_ec2, inboxes, region):
    instance_id = next(INSTANCE_IDS)
    local_ec2.put(instance_id)
    assert invoke(accounts, members, region, launch(instance_id))["counts"]["enforced"] == 1
    message = inboxes("ResultTopicArn", instance_id)
    assert "session tokens are now required" in message
    assert f"Where: {instance_id} in {region}, account {MEMBER}, at " in message
    for line in message.split("\n"):
        assert line[0] == line[-1] == '"' and not set('"\\') & set(line[1:-1]), line


@pytest.mark.parametrize("region", REGIONS)
def test_a_digest_is_recorded_by_account_and_region(accounts, hub, members, local_ec2, region):
    tag = {"imds-exemption": f"{datetime.now(UTC).date() + timedelta(days=1)} until tomorrow"}
    local_ec2.put(next(INSTANCE_IDS), **tag)
    report = invoke(accounts, members, region, sweep(f"sweep-of-{region}"))
    item = eventually(lambda: member_of(accounts, hub, region), "the digest is recorded")
    assert abs(int(item["last"]["N"]) - seconds()) < 3600
    assert int(item["ttl"]["N"]) == int(item["last"]["N"]) + 30 * 86400
    [line] = eventually(lambda: [it for it in lines(accounts, hub, "digest") if it["region"] == region], "its line is there")
    assert (line["account"], line["mode"], line["exempt"]) == (MEMBER, "enforce", report["counts"]["exempt"])
    for name in ("enforced", "would_enforce", "left_over", "created_before", "in_use", "managed", "failed"):
        assert line[name] == report["counts"][name], name
    assert line["refused"] == 0
    causes = [it for it in lines(accounts, hub, "cause") if it["region"] == region]
    assert sum(it["instances"] for it in causes) >= 1 and {it["account"] for it in causes} == {MEMBER}


def digest(time, account=MEMBER, region="ap-south-1", **changes):
    """A digest as EventBridge delivers it to the hub."""
    counts = dict.fromkeys(COUNTS, 0) | {"examined": 7, "left_over": 2}
    causes = [{"kind": "auto_scaling_group", "belongs_to": "web", "count": 4}, {"kind": "unknown", "count": 1}]
    refusals = [{"code": "UnauthorizedOperation", "count": 2, "message": "no", "instance_ids": ["i-1"]}]
    detail = {"schema_version": "2", "mode": "enforce", "region": region, "counts": counts, "causes": causes}
    detail |= {"refusals": refusals, "other_refusals": 1} | changes
    return {"id": "1", "source": "imds-enforcer", "detail-type": "IMDS Sweep Digest", "account": account, "region": HOME, "time": time, "detail": detail}


SCHEMA = json.loads((ROOT / "events/schema/result-2.json").read_text())
COUNTS = SCHEMA["$defs"]["digest"]["properties"]["counts"]["required"]


def test_a_late_or_second_digest_never_moves_the_last_one_back(accounts, hub):
    for time in (now(hours=2), now(hours=1), now(hours=1), now(hours=5)):
        executed(accounts, hub["RecordArn"], json.dumps(digest(time)))
    assert abs(int(member_of(accounts, hub, "ap-south-1")["last"]["N"]) - seconds(hours=1)) < 600
    found = [it for it in lines(accounts, hub, "digest") if it["region"] == "ap-south-1"]
    assert len(found) == 2 and {(it["left_over"], it["refused"]) for it in found} == {(2, 3)}
    causes = [it for it in lines(accounts, hub, "cause") if it["region"] == "ap-south-1"]
    assert sorted((it["kind"], it.get("belongs_to"), it["instances"]) for it in causes) == [
        *[("auto_scaling_group", "web", 4)] * 2,
        *[("unknown", None, 1)] * 2,
    ]


def test_a_digest_without_causes_and_of_the_future_counts_as_of_now(accounts, hub):
    future = (datetime.now(UTC) + timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%SZ")
    executed(accounts, hub["RecordArn"], json.dumps(digest(future, region="ap-east-1", causes=[], refusals=[], other_refusals=0)))
    assert abs(int(member_of(accounts, hub, "ap-east-1")["last"]["N"]) - seconds()) < 600
    [line] = [it for it in lines(accounts, hub, "digest") if it["region"] == "ap-east-1"]
    assert line["refused"] == 0 and not [it for it in lines(accounts, hub, "cause") if it["region"] == "ap-east-1"]


FAILED_SWEEP = {"code": "UnauthorizedOperation", "message": "grant ec2:DescribeInstances", "retryable": False}


def test_a_member_that_can_not_see_its_instances_becomes_silent_with_its_error(accounts, hub, inboxes, nobody):
    before, _ = watched(accounts, hub)
    put_member(accounts, hub, "ca-central-1", seconds(hours=4))
    for time in (now(minutes=70), now(minutes=10), now(minutes=10)):
        executed(accounts, hub["RecordArn"], json.dumps(digest(time, region="ca-central-1", error=FAILED_SWEEP)))
    item = member_of(accounts, hub, "ca-central-1")
    assert abs(int(item["last"]["N"]) - seconds(hours=4)) < 600 and int(item["ttl"]["N"]) > seconds(days=-29)
    found = [it["error"] for it in lines(accounts, hub, "digest") if it["region"] == "ca-central-1"]
    assert found == ["UnauthorizedOperation: grant ec2:DescribeInstances"] * 2
    assert watched(accounts, hub)[0] == before + 1
    message = inboxes("AlarmTopicArn", "Region ca-central-1, last complete digest ")
    assert "; its sweeps fail: UnauthorizedOperation: grant ec2:DescribeInstances\n" in message
    [line] = [it for it in lines(accounts, hub, "silent") if it["region"] == "ca-central-1"]
    assert line["error"] == found[0]

    executed(accounts, hub["RecordArn"], json.dumps(digest(now(), region="ca-central-1")))
    assert member_of(accounts, hub, "ca-central-1")["error"] == {"S": "none"}
    assert watched(accounts, hub)[0] == before + 1


def test_a_member_whose_first_digest_fails_is_known(accounts, hub, nobody):
    for time in (now(hours=5), now(hours=1)):
        executed(accounts, hub["RecordArn"], json.dumps(digest(time, region="ca-west-1", error=FAILED_SWEEP)))
    assert abs(int(member_of(accounts, hub, "ca-west-1")["last"]["N"]) - seconds(hours=5)) < 600


def test_a_record_that_takes_a_blind_sweep_for_a_sign_of_life_would_be_found(accounts, hub, faulty):
    put_member(accounts, hub, "ca-central-1", seconds(hours=4))
    record = faulty("RecordArn", "if_not_exists(#last, :seen)", ":seen")
    executed(accounts, record, json.dumps(digest(now(), region="ca-central-1", error=FAILED_SWEEP)))
    assert int(member_of(accounts, hub, "ca-central-1")["last"]["N"]) > seconds(hours=1)


def test_what_can_not_be_recorded_is_kept(accounts, hub, faulty):
    sent = digest(now(), region="eu-south-1", refusals=[{"count": "many"}])
    record = faulty("RecordArn", '"MaxAttempts": 6', '"MaxAttempts": 0')
    client = accounts("stepfunctions")
    arn = client.start_execution(stateMachineArn=record, input=json.dumps(sent))["executionArn"]
    done = eventually(lambda: (it := client.describe_execution(executionArn=arn))["status"] != "RUNNING" and it, "the execution ends")
    assert (done["status"], done["error"]) == ("FAILED", "States.QueryEvaluationError"), done
    # The emulator drops the attributes that a state machine gives a message: the checks of the template see them.
    [message] = accounts("sqs").receive_message(QueueUrl=hub["DeadLetterQueueUrl"])["Messages"]
    accounts("sqs").delete_message(QueueUrl=hub["DeadLetterQueueUrl"], ReceiptHandle=message["ReceiptHandle"])
    assert json.loads(message["Body"]) == sent


def test_what_is_no_result_is_ignored(accounts, hub):
    executed(accounts, hub["RecordArn"], json.dumps({**digest(now()), "detail": {"schema_version": "2"}}))


def test_a_digest_of_another_version_is_a_sign_of_life_and_no_line(accounts, hub):
    executed(accounts, hub["RecordArn"], json.dumps(digest(now(), region="sa-east-1", schema_version="3")))
    assert member_of(accounts, hub, "sa-east-1")
    assert not [it for it in lines(accounts, hub, "digest") if it["region"] == "sa-east-1"]


def test_a_result_is_a_line_of_the_log(accounts, hub, members, local_ec2):
    instance_id = next(INSTANCE_IDS)
    local_ec2.put(instance_id, **{"aws:autoscaling:groupName": "web-blue"})
    invoke(accounts, members, REGIONS[0], launch(instance_id))
    [line] = eventually(lambda: [it for it in lines(accounts, hub, "result") if it["instance_id"] == instance_id], "its line is there")
    assert (line["account"], line["region"], line["result"]) == (MEMBER, REGIONS[0], "IMDS Tokens Required")
    assert line["result_id"].endswith(f"/{instance_id}/enforced")
    assert (line["outcome"], line["kind"]) == ("enforced", "auto_scaling_group")
    assert line["who"].startswith("arn:aws:sts::111122223333:assumed-role/ci-deployer/")


@pytest.fixture
def faulty(accounts, hub):
    """Makes a state machine like one of the hub's, with a text of its definition replaced."""
    client, made = accounts("stepfunctions"), []

    def machine(output, old, new):
        like = client.describe_state_machine(stateMachineArn=hub[output])
        assert old in like["definition"]
        definition = like["definition"].replace(old, new)
        made.append(client.create_state_machine(name=f"faulty-{output}", definition=definition, roleArn=like["roleArn"])["stateMachineArn"])
        return made[-1]

    yield machine
    for arn in made:
        client.delete_state_machine(stateMachineArn=arn)


def test_a_record_that_moves_the_last_digest_back_would_be_found(accounts, hub, faulty):
    record = faulty("RecordArn", "attribute_not_exists(#seen) OR #seen < :seen", "attribute_not_exists(#seen) OR #seen <> :seen")
    for time in (now(hours=1), now(hours=5)):
        executed(accounts, record, json.dumps(digest(time, region="af-south-1")))
    assert abs(int(member_of(accounts, hub, "af-south-1")["last"]["N"]) - seconds(hours=5)) < 600


def test_a_watch_that_forgets_nobody_would_be_found(accounts, hub, faulty, nobody):
    before, _ = watched(accounts, hub)
    put_member(accounts, hub, "me-central-1", seconds(days=31), ttl=seconds(days=1))
    executed(accounts, faulty("WatchArn", " AND #ttl > :now", " AND #ttl <> :now"))
    assert watched(accounts, hub)[0] == before + 1


@pytest.fixture
def nobody(accounts, hub):
    """A hub that knows no member."""
    table = hub["MembersTable"]
    for item in accounts("dynamodb").scan(TableName=table)["Items"]:
        accounts("dynamodb").delete_item(TableName=table, Key={"member": item["member"]})


def test_who_is_silent_is_told_once_and_again_after_a_return(accounts, hub, inboxes, nobody):
    put_member(accounts, hub, "us-west-1", seconds(minutes=170))
    put_member(accounts, hub, "us-west-2", seconds(minutes=190))
    silent, looks = watched(accounts, hub)
    message = inboxes("AlarmTopicArn", "us-west-2")
    assert f"account {MEMBER}, Region us-west-2, last complete digest " in message and "us-west-1" not in message
    assert [it["account"] for it in lines(accounts, hub, "silent") if it["region"] == "us-west-2"] == [MEMBER]
    again = watched(accounts, hub)
    assert again == (silent + 1, looks + 1)

    executed(accounts, hub["RecordArn"], json.dumps(digest(now(), region="us-west-2")))
    assert watched(accounts, hub) == (silent + 1, looks + 2)
    item = member_of(accounts, hub, "us-west-2")
    assert int(item["last"]["N"]) > seconds(hours=1)

    silent_since = {":last": {"N": str(seconds(hours=4))}}
    key = {"member": {"S": f"{MEMBER}/us-west-2"}}
    update = {"UpdateExpression": "SET #last = :last", "ExpressionAttributeNames": {"#last": "last"}}
    accounts("dynamodb").update_item(TableName=hub["MembersTable"], Key=key, ExpressionAttributeValues=silent_since, **update)
    watched(accounts, hub)
    eventually(lambda: len([it for it in inboxes.messages("AlarmTopicArn") if "us-west-2" in it]) == 2, "the second silence is told")


def test_silence_is_counted_over_all_pages(accounts, hub, inboxes, nobody):
    before, _ = watched(accounts, hub)
    for number in range(130):
        put_member(accounts, hub, f"region-{number}", seconds(hours=9))
    assert watched(accounts, hub)[0] == before + 130
    inboxes("AlarmTopicArn", "Region region-0,")
    told = " ".join(it for it in inboxes.messages("AlarmTopicArn") if "region-" in it)
    eventually(lambda: len(re.findall(r"Region region-\d+,", " ".join(inboxes.messages("AlarmTopicArn")))) == 130, "each is named")
    assert told


def test_who_is_forgotten_is_not_silent_although_dynamodb_deletes_late(accounts, hub, inboxes, nobody):
    before, _ = watched(accounts, hub)
    put_member(accounts, hub, "me-south-1", seconds(days=31), ttl=seconds(days=1))
    assert watched(accounts, hub)[0] == before
    assert not [it for it in inboxes.messages("AlarmTopicArn") if "me-south-1" in it]


def test_a_member_is_forgotten_by_the_manuals_commands(accounts, hub, nobody):
    section = (ROOT / "infra/README.md").read_text().split("### Silence\n")[1].split("### ")[0]
    listing, forgetting = re.findall(r"```\n(.*?)```", section, re.DOTALL)
    before, _ = watched(accounts, hub)
    put_member(accounts, hub, "eu-central-1", seconds(hours=9))
    variables = {"AWS_ENDPOINT_URL": accounts.endpoint, "AWS_ACCESS_KEY_ID": SECURITY, "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    environment = os.environ | variables | NO_FILES | {"AWS_DEFAULT_REGION": HOME, "AWS_REGION": HOME, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    script = ["bash", "-eu", "-c", listing + forgetting + listing]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [f"{MEMBER}/eu-central-1"]
    assert watched(accounts, hub)[0] == before


# As AWS documents it, with the names of an alarm of ours.
ALARM_STATE = {
    "version": "0",
    "id": "c4c1c1c9-6542-e61b-6ef0-8c4d36933a92",
    "detail-type": "CloudWatch Alarm State Change",
    "source": "aws.cloudwatch",
    "account": MEMBER,
    "time": "2026-11-02T17:04:40Z",
    "region": "us-east-1",
    "detail": {
        "configuration": {
            "description": "imds-enforcer - events wait in the dead-letter queue, so instances may be left unprotected",
            "metrics": [{"id": "30b6c6b2-a864-43a2-4877-c09a1afc3b87", "metricStat": {"period": 60, "stat": "Maximum"}, "returnData": True}],
        },
        "previousState": {"reason": "no datapoints were received", "timestamp": "2026-11-02T16:56:40.987+0000", "value": "OK"},
        "state": {
            "reason": "Threshold Crossed: 1 out of the last 1 datapoints [2.0 (02/11/26 16:59:00)] was greater than the threshold (0.0)",
            "timestamp": "2026-11-02T17:04:40.989+0000",
            "value": "ALARM",
        },
    },
}


def state_change(before, after, name, region="us-east-1", account=MEMBER, **changes):
    event = copy.deepcopy(ALARM_STATE) | {"account": account, "region": region}
    event["resources"] = [f"arn:aws:cloudwatch:{region}:{account}:alarm:{name}"]
    event["detail"]["alarmName"] = name
    event["detail"]["previousState"]["value"], event["detail"]["state"]["value"] = before, after
    event["detail"]["configuration"] |= changes
    return event


def alarm_of(accounts, region):
    """The name that CloudFormation gave an alarm of a member."""
    resources = accounts("cloudformation", MEMBER, region).list_stack_resources(StackName="imds-enforcer")["StackResourceSummaries"]
    return next(it["PhysicalResourceId"] for it in resources if it["LogicalResourceId"] == "DeadLetterAlarm")


def send(accounts, event, region):
    entry = {"Source": event["source"], "DetailType": event["detail-type"], "Detail": json.dumps(event["detail"]), "Resources": event["resources"]}
    assert accounts("events", MEMBER, region).put_events(Entries=[entry])["FailedEntryCount"] == 0


@pytest.mark.parametrize("region", REGIONS)
def test_an_alarm_of_a_member_arrives_when_it_goes_on_and_off(accounts, members, inboxes, region):
    name = alarm_of(accounts, region)
    for before, after in [("INSUFFICIENT_DATA", "OK"), ("OK", "INSUFFICIENT_DATA"), ("OK", "ALARM"), ("ALARM", "OK")]:
        send(accounts, state_change(before, after, name, region), region)
    for state in ("ALARM", "OK"):
        message = inboxes("AlarmTopicArn", f'"{state}: imds-enforcer - events wait')
    where = f"Where: account {MEMBER}, Region {region}, since 2026-11-02T17:04:40.989+0000"
    found = [it for it in inboxes.messages("AlarmTopicArn") if where in it]
    assert sorted(it.split(":")[0] for it in found) == ['"ALARM', '"OK']
    for part in [f"Alarm: {name}", "Reason: Threshold Crossed", "Read: When an alarm fires"]:
        assert all(part in it for it in found), message


def rule_of(accounts, name, account=SECURITY, region=HOME, stack="imds-enforcer-hub", bus="imds-enforcer-hub"):
    resources = accounts("cloudformation", account, region).list_stack_resources(StackName=stack)["StackResourceSummaries"]
    rule = next(it["PhysicalResourceId"] for it in resources if it["LogicalResourceId"] == name).split("|")[-1].split("/")[-1]
    return accounts("events", account, region).describe_rule(Name=rule, EventBusName=bus)["EventPattern"]


def test_only_alarms_that_go_on_or_off_pass_from_a_member_to_a_message(accounts, hub, members):
    name, other = alarm_of(accounts, "us-east-1"), "payroll-DeadLetterAlarm-1"
    of_the_hub = yaml_parse(TEMPLATE.read_text())["Resources"]["RecordAlarm"]["Properties"]["AlarmDescription"]
    passes = [state_change("OK", "ALARM", name), state_change("INSUFFICIENT_DATA", "ALARM", name), state_change("ALARM", "OK", name)]
    stays = [
        state_change("INSUFFICIENT_DATA", "OK", name),
        state_change("OK", "INSUFFICIENT_DATA", name),
        state_change("ALARM", "INSUFFICIENT_DATA", name),
        state_change("OK", "ALARM", name, description="payroll is late"),
        state_change("OK", "ALARM", name, description=of_the_hub),
        state_change("OK", "ALARM", name) | {"detail-type": "CloudWatch Alarm Configuration Change"},
    ]
    own, central = rule_of(accounts, "AlarmStateRule", MEMBER, "us-east-1", "imds-enforcer", "default"), rule_of(accounts, "AlarmStateRule")
    for pattern in (own, central):
        matched = [accounts("events").test_event_pattern(EventPattern=pattern, Event=json.dumps(it))["Result"] for it in passes + stays]
        assert matched == [True] * len(passes) + [False] * len(stays)
    losses = name.replace("DeadLetterAlarm", "LostEventAlarm")
    assert accounts("events").test_event_pattern(EventPattern=own, Event=json.dumps(state_change("OK", "ALARM", losses)))["Result"]
    strangers = [state_change("OK", "ALARM", other), state_change("OK", "ALARM", name, account=STRANGER), state_change("ALARM", "OK", losses)]
    # As the CDK calls it.
    strangers.append(state_change("ALARM", "OK", losses.replace("LostEventAlarm", "ImdsEnforcerTemplateLostEventAlarm1A2B3C4D")))
    for stack in ("imds-enforcer-vpc", "imds-enforcer-hub", "imds-enforcer-a-b"):
        similar = name.replace("imds-enforcer-", f"{stack}-", 1)
        strangers += [state_change("OK", "ALARM", similar), state_change("ALARM", "OK", similar)]
    for stranger in strangers:
        assert not accounts("events").test_event_pattern(EventPattern=own, Event=json.dumps(stranger))["Result"], stranger["detail"]["alarmName"]


@pytest.fixture
def place(accounts, monkeypatch, tmp_path):
    """The environment of whoever runs the command, with a template that the emulator knows."""
    variables = {"AWS_ENDPOINT_URL": accounts.endpoint, "AWS_ACCESS_KEY_ID": SECURITY, "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    for name, value in {**variables, **NO_FILES, "AWS_REGION": "eu-north-1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "hub.yaml").write_text(text_of(yaml_parse(TEMPLATE.read_text())))
    monkeypatch.setattr(hub_command, "TEMPLATE", tmp_path / "hub.yaml")
    return accounts("cloudformation", SECURITY, "eu-north-1")


def parameters_of(place):
    [stack] = place.describe_stacks(StackName="imds-enforcer-hub")["Stacks"]
    return {it["ParameterKey"]: it["ParameterValue"] for it in stack["Parameters"]}


def run_command(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["hub.py", *words])
    hub_command.main()


def test_the_command_asks_before_it_deploys_and_keeps_what_is_not_named(place, monkeypatch, capsys):
    words = [f"OrganizationId={ORGANIZATION}", "AlarmEmail=security@example.com"]
    with pytest.raises(SystemExit, match="nothing was changed: there is no terminal to ask on"):
        run_command(monkeypatch, *words)
    assert not [it for it in place.describe_stacks()["Stacks"] if it["StackStatus"] != "DELETE_COMPLETE"]
    shown = capsys.readouterr().out
    assert f"account {SECURITY}, Region eu-north-1, as arn:" in shown
    assert "stack imds-enforcer-hub in eu-north-1: first deployment" in shown

    monkeypatch.setenv("YES", "1")
    run_command(monkeypatch, *words)
    arn = f"arn:aws:events:eu-north-1:{SECURITY}:event-bus/imds-enforcer-hub"
    shown = capsys.readouterr().out
    assert "  Add      Members                  AWS::DynamoDB::Table\n" in shown
    assert f"\nHubBusArn={arn}\n" in shown and f"  make deploy HubBusArn={arn}\n" in shown

    run_command(monkeypatch, "SilenceHours=5")
    assert "stack imds-enforcer-hub in eu-north-1: updates the stack of " in capsys.readouterr().out
    found = parameters_of(place)
    assert (found["SilenceHours"], found["OrganizationId"], found["AlarmEmail"]) == ("5", ORGANIZATION, "security@example.com")


def test_a_key_that_the_hub_cannot_use_is_refused_before_anything_changes(accounts, place, monkeypatch):
    key = accounts("kms", SECURITY, "eu-north-1").create_key()["KeyMetadata"]["Arn"]
    with pytest.raises(SystemExit, match="events.amazonaws.com and kms:GenerateDataKey, kms:Decrypt: no statement allows it") as ended:
        run_command(monkeypatch, f"OrganizationId={ORGANIZATION}", f"KmsKeyArn={key}")
    assert "nothing was changed" in str(ended.value)


def refused(*words):
    """What make hub says to words that it refuses."""
    done = subprocess.run(["make", "hub", *words], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    return done.stderr


def test_the_command_refuses_what_the_template_would_refuse(place):
    said = refused("SilenceHour=5", "ForgetDays=1", "AlarmEmail=nobody", "Regions=eu-central-1,us-east-1")
    for refusal in [
        "SilenceHour is unknown; did you mean SilenceHours?",
        'ForgetDays is "1"; it must be a number from 8 to 365',
        'AlarmEmail is "nobody"; it must be an e-mail address or empty',
        "a hub is one stack in one Region: give Region in place of Regions",
    ]:
        assert refusal in said
    said = refused("AlarmEmail=security@example.com", "Region=eu-west-3")
    assert "OrganizationId is missing; it must be the id of an organization, such as o-a1b2c3d4e5" in said
