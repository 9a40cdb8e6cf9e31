"""Publishes function and template for an organization, and deploys its stack set.

Lambda takes code only from a bucket of its own Region, and a service-managed stack set takes only
templates without macros. So the zip goes to a bucket in each Region, and the SAM template is
transformed here. Each bucket's name has a part that nobody can guess, each call names the account that
must own the bucket, and the template names the version of the zip in each Region: what another account
puts where this one looks is never deployed. It deletes no bucket.

    make organization NAME=VALUE … [Regions=…,…] [Region=…] [StackName=…] [PublishOnly=yes] [YES=1]
"""

import datetime
import functools
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
import regions as places
import sam
from botocore.exceptions import ClientError
from partition import dns_suffix, partition
from samcli.yamlhelper import yaml_parse
from stack import Begun, Failed, Stack

TEMPLATE = pathlib.Path(__file__).parents[1] / "organization.yaml"
NAME = "imds-enforcer-organization"
STACK_SET = "imds-enforcer"
# Parameters that every build of the organization's stack has had.
MARKS = {"OrganizationalUnitIds", "TemplateUrl"}
# An account that stands for each member: it is nobody's.
MEMBER = "000000000000"
# A stack set with many accounts, one Region after the other, takes longer than any other stack.
HOURS = 24
# What the command has beside the parameters of organization.yaml, and what it fills in itself.
OPTIONS = {
    "OrganizationId": {
        "Type": "String",
        "AllowedPattern": "o-[a-z0-9]{10,32}",
        "ConstraintDescription": "must be an organization's id, such as o-a1b2c3d4e5",
        "Default": "",
    },
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
    kept = current["parameters"] if current else {"EnforceSince": str(today), "Regions": "us-east-1", "Architecture": "x86_64"}
    return {**{name: value for name, value in kept.items() if name not in OWN}, **given}


def without_architecture(values):
    """Stacks of an earlier build do not say which architecture their functions have."""
    said = "the stack is of an earlier build, which does not say for which architecture: give Architecture=x86_64 or Architecture=arm64"
    return [] if "Architecture" in values else [said]


def wanted_of(stack, current, given, publish_only):
    """What the stack set is to have; ends with all that stands against it."""
    values = settled(given, current, datetime.datetime.now(datetime.UTC).date())
    kept = ["OrganizationalUnitIds"] if publish_only else []
    against = command.against(stack, current, MARKS) or without_architecture(values)
    command.refuse(against or parameters.refusals(stated(), values, kept=kept))
    return values


def misplaced(target, regions):
    """What is wrong with Regions that instances are looked after in."""
    return places.unknown(regions, target.session) or places.of_another_partition(regions, target.arn)


def without_trusted_access(region):
    """China's Regions have stack sets, but no trusted access of theirs to Organizations."""
    if partition(region) != "aws-cn":
        return []
    return [f"{region}: StackSets has no trusted access to Organizations in China, so run make deploy in each account instead"]


def has_stack_set(session, region, administration):
    """Whether the organization's stack set is in a Region."""
    client = session.client("cloudformation", region_name=region)
    try:
        return client.describe_stack_set(StackSetName=STACK_SET, CallAs=administration)["StackSet"]["Status"] == "ACTIVE"
    except ClientError as error:
        # A Region that the account has disabled knows none of its credentials.
        if error.response["Error"]["Code"] in ("StackSetNotFoundException", "StackSetNotFound", "UnrecognizedClientException", "InvalidClientTokenId"):
            return False
        raise


def of_another_home(stack, current, regions, has):
    """Why a stack set would be a second one, which deploys a second stack to every account. `has` says whether one is in a Region."""
    found = [it for it in dict.fromkeys(regions) if it != stack.region and has(it)]
    if found:
        return [f"the stack set {STACK_SET} is in {it} already: give Region={it}" for it in found]
    if current is None and has(stack.region):
        return [
            f"the stack set {STACK_SET} is in {stack.region} already, and no stack {stack.name}:"
            " give StackName= of the stack that made it, which aws cloudformation describe-stacks shows; where none did, delete the stack set first"
        ]
    return []


def published_regions(names):
    """The Regions of the buckets that are there."""
    return [match[2] for name in names if (match := UNGUESSABLE.fullmatch(name))]


def key_refusals(target, regions, key_arn, organization):
    """What is wrong with a key in each Region, for this account and for any other of the organization."""
    if not key_arn:
        return []
    found = []
    for region in regions:
        judged = functools.partial(keys.refusals, target.session, region, key_arn=key_arn, organization=organization)
        doubts, own = {}, judged(target.account, tell=lambda it, region=region: keys.to_stderr(f"{region}: {it}"))
        others = [it for it in judged(MEMBER, tell=lambda it, doubts=doubts: doubts.setdefault(it)) if it not in own]
        found += [f"{region}: {it}" for it in own] + [f"{region}, in another account of the organization: {it}" for it in others]
    return found


def typed():
    """What was typed: for the command, its options, and the parameters of the stack set, of which `Regions` is one."""
    own, given = command.typed()
    if "Regions" in own:
        given["Regions"] = own.pop("Regions")
    wrong = parameters.refusals(stated(), given, kept=stated()["Parameters"], reserved=command.RESERVED) + command.architecture_of_package(given)
    target = command.target({**own, "StackName": own.get("StackName") or NAME}, wrong)
    command.refuse(without_trusted_access(target.regions[0]))
    options = {name: given.pop(name, it.get("Default")) for name, it in OPTIONS.items()}
    options["OrganizationId"] = options["OrganizationId"] or keys.organization_of(target.session)
    if not options["OrganizationId"]:
        command.refuse(["OrganizationId is missing, and Organizations does not say it: give OrganizationId=o-…"])
    return target, options, given


def planned(target, stack, options, given):
    """What the stack set is to have, and in which Regions; ends with all that stands against it."""
    publish_only, current = options["PublishOnly"] == "yes", stack.current()
    values = wanted_of(stack, current, given, publish_only)
    regions = list(dict.fromkeys(it.strip() for it in values["Regions"].split(",")))
    command.refuse(misplaced(target, regions) or key_refusals(target, regions, values.get("KmsKeyArn"), options["OrganizationId"]))
    if not publish_only:
        names = [it["Name"] for it in target.session.client("s3", region_name=stack.region).list_buckets()["Buckets"]]
        has = functools.partial(has_stack_set, target.session, administration=administration(values))
        command.refuse(of_another_home(stack, current, [*regions, *published_regions(names)], has))
        print(f"\nstack {stack.name} in {stack.region}: {command.becomes(current)}")
        print("\n".join(different(current, values)))
    return current, values, regions


def different(current, values):
    """What a deployment changes, by name; of a first one, all that it has."""
    before = current["parameters"] if current else {}
    defaults = {} if current else {name: str(it["Default"]) for name, it in stated()["Parameters"].items() if "Default" in it and name not in OPTIONS}
    return [
        f"  {name}: {before[name]} → {value}" if name in before else f"  {name}: {value}"
        for name, value in sorted({**defaults, **values}.items())
        if before.get(name) != value
    ]


def administration(values):
    return values.get("Administration") or "SELF"


def main():
    target, options, given = typed()
    print(target)
    stack = Stack(target.session, target.regions[0], target.stack_name)
    current, values, regions = planned(target, stack, options, given)
    zipped = build.packages([values["Architecture"]])[values["Architecture"]]
    try:
        filled = published(target, options["OrganizationId"], regions, zipped)
        if options["PublishOnly"] == "yes":
            shown = {**filled, "Architecture": values["Architecture"]}
            return print("deploy infra/organization.yaml with", " ".join(f"{name}={value}" for name, value in shown.items()))
        if stack.moved(current):
            sys.exit("somebody else changed the stack meanwhile: run the same again\nthe stack set was not changed")
        deploy(stack, {**(given if current else values), **filled})
    except Begun as failure:
        sys.exit(f"{failure}\nthe deployment was begun; {look_at(stack, values)} shows what became of it in each account and Region")
    except (Refused, Failed) as failure:
        sys.exit(f"{failure}\nthe stack set was not changed")
    conclude(stack, values)


def published(target, organization, regions, zipped):
    """Publishes, and answers what the stack set needs to know of it."""
    url, old = publish(lambda service, region: target.session.client(service, region_name=region), organization, regions, zipped)
    print(f"published to {', '.join(regions)}")
    for name in old:
        print(f"bucket {name} is of an earlier build, and anybody can guess its name: delete it when the stack set is updated")
    return {"TemplateUrl": url, "PublishedRegions": ",".join(regions)}


def deploy(stack, values):
    """Shows what would change, asks once, and changes it."""
    change = stack.change(TEMPLATE.read_text(), values)
    if not command.agreed(change):
        return
    print("deploying to every account, which takes minutes for a few and hours for many", flush=True)
    change.execute(HOURS)


def of_the_stack_set(stack, values):
    """The options of the AWS command line that name the stack set."""
    delegated = " --call-as DELEGATED_ADMIN" if administration(values) == "DELEGATED_ADMIN" else ""
    return f"--stack-set-name {STACK_SET} --region {stack.region}{delegated}"


def look_at(stack, values):
    return f"aws cloudformation list-stack-instances {of_the_stack_set(stack, values)}"


def lagging(client, call_as):
    """Account, Region and reason of each stack that is not as the stack set has it; closed accounts have none."""
    pages = client.get_paginator("list_stack_instances").paginate(StackSetName=STACK_SET, CallAs=call_as)
    found = []
    for it in (it for page in pages for it in page["Summaries"] if it["Status"] != "CURRENT"):
        status = it.get("StackInstanceStatus", {}).get("DetailedStatus") or it["Status"]
        if status != "SKIPPED_SUSPENDED_ACCOUNT":
            found.append((it["Account"], it["Region"], f"{status} {it.get('StatusReason', '')}".strip()))
    return found


def conclude(stack, values):
    """Says what the stack set tolerated: accounts in which it failed."""
    rows = lagging(stack.client, administration(values))
    if not rows:
        return print(f"{stack.name} is deployed, and every stack is as the stack set has it; {look_at(stack, values)} shows each account and Region")
    regions = " ".join(sorted({region for _, region, _ in rows}))
    units = values["OrganizationalUnitIds"].replace(" ", "")
    print(command.table(rows))
    sys.exit(
        f"{len(rows)} stacks are not as the stack set has them. A Region that is disabled by default must be enabled"
        " in the management account and in each member."
        f" Mend the reasons, then run aws cloudformation update-stack-instances {of_the_stack_set(stack, values)}"
        f" --deployment-targets OrganizationalUnitIds={units} --regions {regions}"
        " --operation-preferences FailureTolerancePercentage=100,MaxConcurrentPercentage=100"
        " (one that is INOPERABLE needs delete-stack-instances with --retain-stacks first)"
    )


if __name__ == "__main__":
    command.run(main)
