"""The same job as one would write it with boto3: described by filter, decided, required, reported."""

import json

import boto3

EC2 = boto3.client("ec2")


def handle(event, _context):
    items = event["detail"]["responseElements"]["instancesSet"]["items"]
    ids = [item["instanceId"] for item in items]
    enforced = []
    for start in range(0, len(ids), 200):
        chosen = {"Name": "instance-id", "Values": ids[start : start + 200]}
        for page in EC2.get_paginator("describe_instances").paginate(Filters=[chosen], MaxResults=1000):
            for reservation in page["Reservations"]:
                enforced += [instance["InstanceId"] for instance in reservation["Instances"] if require(instance)]
    print(json.dumps({"enforced": enforced}))
    return {"enforced": enforced}


def require(instance):
    """Whether tokens had to be required."""
    options = instance["MetadataOptions"]
    if options["HttpEndpoint"] == "disabled" or options["HttpTokens"] == "required":
        return False
    EC2.modify_instance_metadata_options(
        InstanceId=instance["InstanceId"], HttpTokens="required", HttpEndpoint="enabled"
    )
    return True
