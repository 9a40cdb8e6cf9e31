"""Launch, describe, modify, describe and the errors between, through boto3 on the local EC2."""

import sys
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

ec2 = boto3.client(
    "ec2",
    endpoint_url=sys.argv[1],
    region_name="us-east-1",
    aws_access_key_id="AKIAIOSFODNN7EXAMPLE",
    aws_secret_access_key="not-a-secret",
    config=Config(retries={"total_max_attempts": 1}),
)


def same(found, expected):
    assert found == expected, f"found {found!r}, expected {expected!r}"


def fails(code, status, call, **parameters):
    try:
        call(**parameters)
    except ClientError as error:
        same(error.response["Error"]["Code"], code)
        same(error.response["ResponseMetadata"]["HTTPStatusCode"], status)
        assert error.response["Error"]["Message"]
        assert error.response["ResponseMetadata"]["RequestId"]
    else:
        raise AssertionError(f"{code} was expected for {parameters}")


def let_time_pass():
    """Until what is on its way has arrived: the stand-in is started with a transition of a minute."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(f"{sys.argv[1]}/_local/clock", b"60000").close()


def options(instance):
    [reservation] = ec2.describe_instances(InstanceIds=[instance])["Reservations"]
    [described] = reservation["Instances"]
    return described["MetadataOptions"]


def ids(**parameters):
    reservations = ec2.describe_instances(**parameters)["Reservations"]
    return [it["InstanceId"] for reservation in reservations for it in reservation["Instances"]]


# Launch: options as asked for, `pending`, then in force.
tags = [{"Key": "Name", "Value": 'a <b> & "c"'}]
launched = ec2.run_instances(
    ImageId="ami-0abcdef1234567890",
    InstanceType="t3.micro",
    MinCount=7,
    MaxCount=7,
    MetadataOptions={"HttpPutResponseHopLimit": 3, "HttpProtocolIpv6": "enabled"},
    TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
)
names = [it["InstanceId"] for it in launched["Instances"]]
same(len(set(names)), 7)
assert launched["ReservationId"].startswith("r-")
first = launched["Instances"][0]
same(first["State"], {"Code": 0, "Name": "pending"})
same(first["Tags"], tags)
same(first["MetadataOptions"]["State"], "pending")
let_time_pass()
before = {
    "State": "applied",
    "HttpTokens": "optional",
    "HttpEndpoint": "enabled",
    "HttpPutResponseHopLimit": 3,
    "HttpProtocolIpv6": "enabled",
    "InstanceMetadataTags": "disabled",
}
same(options(names[0]), before)

# Modify: partial, `pending`, then `applied`.
answer = ec2.modify_instance_metadata_options(InstanceId=names[0], HttpTokens="required", HttpEndpoint="enabled")
same(answer["InstanceId"], names[0])
same(answer["InstanceMetadataOptions"], {**before, "HttpTokens": "required", "State": "pending"})
same(options(names[0])["State"], "pending")
let_time_pass()
same(options(names[0]), {**before, "HttpTokens": "required"})
ec2.modify_instance_metadata_options(InstanceId=names[0], HttpPutResponseHopLimit=64, InstanceMetadataTags="enabled")
let_time_pass()
same(
    options(names[0]),
    {**before, "HttpTokens": "required", "HttpPutResponseHopLimit": 64, "InstanceMetadataTags": "enabled"},
)

# Filters, and pages that count instances.
violators = {"Name": "metadata-options.http-tokens", "Values": ["optional"]}
same(sorted(ids(Filters=[violators])), sorted(names[1:]))
same(ids(Filters=[{"Name": "metadata-options.http-tokens", "Values": ["required"]}]), [names[0]])
same(ids(Filters=[{"Name": "instance-id", "Values": [names[2], "i-0123456789abcdef0"]}]), [names[2]])
same(len(ids(Filters=[{"Name": "tag:Name", "Values": ["a <?> *"]}, {"Name": "instance-state-name", "Values": ["running"]}])), 7)
same(ids(Filters=[{"Name": "metadata-options.http-endpoint", "Values": ["disabled"]}]), [])
same(ids(Filters=[{"Name": "operator.managed", "Values": ["true"]}]), [])
pages = list(ec2.get_paginator("describe_instances").paginate(Filters=[violators], PaginationConfig={"PageSize": 5}))
same([sum(len(it["Instances"]) for it in page["Reservations"]) for page in pages], [5, 1])

# Errors, with EC2's codes and statuses.
describe, modify = ec2.describe_instances, ec2.modify_instance_metadata_options
fails("InvalidInstanceID.NotFound", 400, describe, InstanceIds=[names[0], "i-0123456789abcdef0"])
fails("InvalidInstanceID.Malformed", 400, describe, InstanceIds=["i-nonsense"])
fails("InvalidParameterCombination", 400, describe, InstanceIds=[names[0]], MaxResults=5)
fails("InvalidParameterValue", 400, describe, MaxResults=4)
fails("InvalidParameterValue", 400, describe, Filters=[{"Name": "http-tokens", "Values": ["optional"]}])
fails("FilterLimitExceeded", 400, describe, Filters=[{"Name": "instance-id", "Values": [f"i-{n:08x}" for n in range(201)]}])
fails("InvalidInstanceID.NotFound", 400, modify, InstanceId="i-0123456789abcdef0", HttpTokens="required")
fails("InvalidInstanceID.Malformed", 400, modify, InstanceId="i-nonsense", HttpTokens="required")
fails("InvalidParameterValue", 400, modify, InstanceId=names[0], HttpTokens="sometimes")
fails("InvalidParameterValue", 400, modify, InstanceId=names[0], HttpPutResponseHopLimit=65)
fails("MissingParameter", 400, modify, InstanceId=names[0])
fails("DryRunOperation", 412, modify, InstanceId=names[1], HttpTokens="required", DryRun=True)
same(options(names[1])["HttpTokens"], "optional")
fails("InvalidAction", 400, ec2.describe_volumes)

# A stopped instance takes a change at its next start; a terminated one takes none.
ec2.stop_instances(InstanceIds=[names[1]])
let_time_pass()
ec2.modify_instance_metadata_options(InstanceId=names[1], HttpTokens="required", HttpEndpoint="enabled")
let_time_pass()
same(options(names[1])["State"], "pending")
ec2.start_instances(InstanceIds=[names[1]])
let_time_pass()
same((options(names[1])["State"], options(names[1])["HttpTokens"]), ("applied", "required"))
[change] = ec2.terminate_instances(InstanceIds=[names[2]])["TerminatingInstances"]
same((change["PreviousState"]["Name"], change["CurrentState"]["Name"]), ("running", "shutting-down"))
fails("IncorrectInstanceState", 400, modify, InstanceId=names[2], HttpTokens="required")
let_time_pass()
same(ids(Filters=[{"Name": "instance-state-name", "Values": ["terminated"]}]), [names[2]])

print("boto3 agrees")
