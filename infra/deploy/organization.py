"""Publishes function and template for an organization, and deploys its stack set.

Lambda takes code only from a bucket of its own Region, and a service-managed stack set takes only
templates without macros. So the zip goes to a bucket in each Region, and the SAM template is
transformed here. Each bucket's name has a part that nobody can guess, each call names the account that
must own the bucket, and the template names the version of the zip in each Region: what another account
puts where this one looks is never deployed. It deletes no bucket.

    make organization NAME=VALUE … [Regions=…,…] [Region=…] [StackName=…] [PublishOnly=yes] [YES=1]
"""

import datetime
import hashlib
import json
import pathlib
import re
import secrets
import sys

import build
import command
import key as keys
import parameters
import sam
from botocore.exceptions import BotoCoreError, ClientError
from partition import dns_suffix, partition
from samcli.yamlhelper import yaml_parse
from stack import Failed, Stack, confirmed

TEMPLATE = pathlib.Path(__file__).parents[1] / "organization.yaml"
NAME = "imds-enforcer-organization"
# What the command has beside the parameters of organization.yaml, and what it fills in itself.
OPTIONS = {
    "OrganizationId": {
        "Type": "String",
        "AllowedPattern": "o-[a-z0-9]{10,32}",
        "ConstraintDescription": "must be an organization's id, such as o-a1b2c3d4e5",
        "Default": "",
    },
    "Architecture": {"Type": "String", "AllowedValues": ["x86_64", "arm64"], "Default": "x86_64"},
    "PublishOnly": {"Type": "String", "AllowedValues": ["yes", "no"], "Default": "no"},
}
OWN = {"TemplateUrl", "PublishedRegions"}
UNGUESSABLE = re.compile(r"imds-enforcer-([0-9a-f]{20})-([a-z0-9-]+)")


class Refused(Exception):
    """What is not published, and why."""


def plain_template(part, published, package):
    """The template of a package without the SAM transform, with the zip's place and version in each Region."""
    template = sam.transformed(sam.of_package(package))
    own = yaml_parse(TEMPLATE.read_text())["Parameters"]
    template["Parameters"] |= {name: own[name] for name in OF_EACH_STACK}
    template["Resources"] = of_each_stack(template["Resources"])
    template["Mappings"] = {"Code": {region: {"Version": version} for region, version in published.items()}}
    template["Resources"]["Function"]["Properties"]["Code"] = {
        "S3Bucket": {"Fn::Sub": f"imds-enforcer-{part}-${{AWS::Region}}"},
        "S3Key": code_key(package),
        "S3ObjectVersion": {"Fn::FindInMap": ["Code", {"Ref": "AWS::Region"}, "Version"]},
    }
    return template


def part_of(name, index):
    """A part of an ARN that is a parameter; the colons keep the choice within the list where it is empty."""
    return {"Fn::Select": [index, {"Fn::Split": [":", {"Fn::Join": ["", [{"Ref": name}, ":::::"]]}]}]}


# A stack set gives every account and Region the same value: there, `*` stands for the stack's own.
OF_EACH_STACK = {
    "KmsKeyArn": {"Fn::Join": [":", [{"Fn::Sub": "arn:${AWS::Partition}:kms:${AWS::Region}"}, part_of("KmsKeyArn", 4), part_of("KmsKeyArn", 5)]]},
    "PermissionsBoundaryArn": {"Fn::Join": [":", [{"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}"}, part_of("PermissionsBoundaryArn", 5)]]},
}


def of_each_stack(node):
    """Resources in which these parameters are completed by the Region and account of the stack."""
    if isinstance(node, list):
        return [of_each_stack(it) for it in node]
    if not isinstance(node, dict):
        return node
    if node.keys() == {"Ref"} and node["Ref"] in OF_EACH_STACK:
        return OF_EACH_STACK[node["Ref"]]
    return {key: of_each_stack(it) for key, it in node.items()}


def code_key(package):
    return f"{hashlib.sha256(package).hexdigest()}.zip"


def bucket_policy(bucket, region, organization):
    """The organization reads objects and their versions; nobody does without TLS."""
    arn = f"arn:{partition(region)}:s3:::{bucket}"
    read = {
        "Sid": "ReadByTheOrganization",
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject", "s3:GetObjectVersion"],
        "Resource": f"{arn}/*",
        "Condition": {"StringEquals": {"aws:PrincipalOrgID": organization}},
    }
    transport = {
        "Sid": "EncryptedTransportOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [arn, f"{arn}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return {"Version": "2012-10-17", "Statement": [read, transport]}


def unguessable_part(names):
    """The part that the account's buckets have in common: a new one where there are none yet."""
    found = sorted({match[1] for name in names if (match := UNGUESSABLE.fullmatch(name))})
    if len(found) > 1:
        raise Refused(f"buckets of several organizations' deployments: {', '.join(found)}; delete those that no stack set uses")
    return found[0] if found else secrets.token_hex(10)


def guessable(names, account):
    """The buckets of an earlier build, whose names anybody can guess."""
    return [name for name in names if re.fullmatch(rf"imds-enforcer-{account}-[a-z0-9-]+", name)]


def make_bucket(s3, bucket, region, account, organization):
    """A bucket that the organization reads and nobody else; one that is there must be this account's, and is set right again."""
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    owned = {"Bucket": bucket, "ExpectedBucketOwner": account}
    try:
        s3.head_bucket(**owned)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise Refused(f"bucket {bucket} in {region} is not account {account}'s, or may not be seen: {error}") from error
        s3.create_bucket(Bucket=bucket, **place)
    closed = dict.fromkeys(["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"], True)
    s3.put_public_access_block(**owned, PublicAccessBlockConfiguration=closed)
    s3.put_bucket_versioning(**owned, VersioningConfiguration={"Status": "Enabled"})
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(**owned, ServerSideEncryptionConfiguration={"Rules": [rule]})
    s3.put_bucket_policy(**owned, Policy=json.dumps(bucket_policy(bucket, region, organization)))


def put_code(s3, bucket, account, package):
    """The version of the zip in a bucket; the same zip is not uploaded twice, so that a deployment without changes is none."""
    owned = {"Bucket": bucket, "Key": code_key(package), "ExpectedBucketOwner": account}
    try:
        found = s3.get_object(**owned)
        if found["Body"].read() == package and found.get("VersionId", "null") != "null":
            return found["VersionId"]
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("NoSuchKey", "404"):
            raise
    return s3.put_object(**owned, Body=package)["VersionId"]


def publish(client, organization, regions, package):
    """Uploads the zip to each Region, and the template to the first: answers its URL, and the buckets of an earlier build.

    `client` makes a client of a service in a Region.
    """
    account = client("sts", regions[0]).get_caller_identity()["Account"]
    names = [it["Name"] for it in client("s3", regions[0]).list_buckets()["Buckets"]]
    part, published = unguessable_part(names), {}
    for region in regions:
        s3, bucket = client("s3", region), f"imds-enforcer-{part}-{region}"
        make_bucket(s3, bucket, region, account, organization)
        published[region] = put_code(s3, bucket, account, package)
    home, body = f"imds-enforcer-{part}-{regions[0]}", json.dumps(plain_template(part, published, package)).encode()
    name = f"{hashlib.sha256(body).hexdigest()}.template.json"
    client("s3", regions[0]).put_object(Bucket=home, Key=name, Body=body, ExpectedBucketOwner=account)
    return f"https://{home}.s3.{regions[0]}.{dns_suffix(regions[0])}/{name}", guessable(names, account)


def stated():
    """The template of the stack set, with the options of this command as if they were its parameters."""
    template = yaml_parse(TEMPLATE.read_text())
    shown = {name: it for name, it in template["Parameters"].items() if name not in OWN}
    return {**template, "Parameters": {**shown, **OPTIONS}, "Rules": {name: it for name, it in template["Rules"].items() if not OWN & parameters.references(it)}}


def settled(given, current, today):
    """What is deployed: a first deployment enforces since today, later ones keep what the stack has."""
    kept = current["parameters"] if current else {"EnforceSince": str(today), "Regions": "us-east-1"}
    return {**{name: value for name, value in kept.items() if name not in OWN}, **given}


def wanted_of(stack, given, publish_only):
    """What the stack set is to have; ends with all that stands against it."""
    current = stack.current()
    against = command.foreign(current, stack.name) or list(filter(None, [stack.obstacle(current)]))
    values = settled(given, current, datetime.datetime.now(datetime.UTC).date())
    kept = ["OrganizationalUnitIds"] if publish_only else []
    command.refuse(against or parameters.refusals(stated(), values, kept=kept))
    return values


def key_refusals(target, regions, key_arn):
    """What is wrong with a key in each Region, as far as this account can see it."""
    if not key_arn:
        return []
    return [f"{region}: {it}" for region in regions for it in keys.refusals(target.session, region, target.account, key_arn)]


def typed():
    """What was typed: for the command, its options, and the parameters of the stack set, of which `Regions` is one."""
    own, given = command.typed()
    if "Regions" in own:
        given["Regions"] = own.pop("Regions")
    wrong = parameters.refusals(stated(), given, kept=stated()["Parameters"], reserved=command.RESERVED)
    target = command.target({**own, "StackName": own.get("StackName") or NAME}, wrong)
    options = {name: given.pop(name, it.get("Default")) for name, it in OPTIONS.items()}
    options["OrganizationId"] = options["OrganizationId"] or keys.organization_of(target.session)
    if not options["OrganizationId"]:
        command.refuse(["OrganizationId is missing, and Organizations does not say it: give OrganizationId=o-…"])
    return target, options, given


def main():
    target, options, given = typed()
    print(target)
    publish_only = options["PublishOnly"] == "yes"
    stack = Stack(target.session, target.regions[0], target.stack_name)
    values = wanted_of(stack, given, publish_only)
    regions = list(dict.fromkeys(it.strip() for it in values["Regions"].split(",")))
    command.refuse(key_refusals(target, regions, values.get("KmsKeyArn")))
    zipped = build.packages([options["Architecture"]])[options["Architecture"]]
    url, old = publish(lambda service, region: target.session.client(service, region_name=region), options["OrganizationId"], regions, zipped)
    print(f"published to {', '.join(regions)}, for {options['Architecture']}")
    for name in old:
        print(f"bucket {name} is of an earlier build, and anybody can guess its name: delete it when the stack set is updated")
    filled = {"TemplateUrl": url, "PublishedRegions": ",".join(regions)}
    if publish_only:
        print("deploy infra/organization.yaml with", " ".join(f"{name}={value}" for name, value in filled.items()))
    else:
        deploy(stack, {**values, **filled})


def deploy(stack, values):
    """Shows what would change, asks once, and changes it."""
    change = stack.change(TEMPLATE.read_text(), values)
    if change is None:
        print("  nothing to change")
        return
    for action, logical_id, kind, _ in change.rows():
        print(f"  {action:<8} {logical_id:<24} {kind}")
    agreed = False
    try:
        agreed = confirmed(f"\nDeploy {stack.name} to {stack.region}?")
    finally:
        if not agreed:
            change.discard()
    if not agreed:
        sys.exit("nothing was deployed")
    change.execute()
    print(f"{stack.name} is deployed; aws cloudformation list-stack-instances --stack-set-name imds-enforcer shows each account and Region")


if __name__ == "__main__":
    try:
        main()
    except (Refused, Failed, ClientError, BotoCoreError) as error:
        command.refuse([str(error)])
