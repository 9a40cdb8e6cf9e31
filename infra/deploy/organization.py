"""Publishes function and template for an organization: one bucket a Region, read by the organization alone.

Lambda takes code only from a bucket of its own Region, and a service-managed stack set takes only
templates without macros. So the zip goes to a bucket in each Region, and the SAM template is
transformed here, with the bucket named by its Region.

    organization.py ORGANIZATION_ID REGION,REGION,… ZIP
"""

import hashlib
import json
import pathlib
import re
import sys

import boto3
import package as packages
import sam


def bucket_of(account, region):
    return f"imds-enforcer-{account}-{region}"


def plain_template(account, key, package):
    """The template of a package without the SAM transform, whose code lies in the bucket of each Region."""
    template = sam.transformed(sam.of_package(package))
    code = {"S3Bucket": {"Fn::Sub": bucket_of(account, "${AWS::Region}")}, "S3Key": key}
    template["Resources"]["Function"]["Properties"]["Code"] = code
    return template


def bucket_policy(bucket, organization):
    arns = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    read = {
        "Sid": "ReadByTheOrganization",
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": arns[1],
        "Condition": {"StringEquals": {"aws:PrincipalOrgID": organization}},
    }
    transport = {
        "Sid": "EncryptedTransportOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": arns,
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return {"Version": "2012-10-17", "Statement": [read, transport]}


def make_bucket(s3, bucket, region, organization):
    """A bucket that the organization reads and nobody else; one that is there is set right again."""
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    if bucket not in [it["Name"] for it in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=bucket, **place)
    closed = dict.fromkeys(["BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"], True)
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=closed)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(bucket_policy(bucket, organization)))


def publish(client, organization, regions, package):
    """Uploads the zip to each Region, and the template to the first, whose URL is answered.

    `client` makes a client of a service in a Region. The zip's name is its hash, so that a new
    build is a change that CloudFormation sees.
    """
    account = client("sts", regions[0]).get_caller_identity()["Account"]
    key = f"{hashlib.sha256(package).hexdigest()}.zip"
    for region in regions:
        s3, bucket = client("s3", region), bucket_of(account, region)
        make_bucket(s3, bucket, region, organization)
        s3.put_object(Bucket=bucket, Key=key, Body=package)
    home = bucket_of(account, regions[0])
    name = key.replace(".zip", ".template.json")
    body = json.dumps(plain_template(account, key, package)).encode()
    client("s3", regions[0]).put_object(Bucket=home, Key=name, Body=body)
    return f"https://{home}.s3.{regions[0]}.amazonaws.com/{name}"


def main(organization, regions, package):
    if not re.fullmatch(r"o-[a-z0-9]{10,32}", organization):
        sys.exit(f"ORGANIZATION is {organization!r}; an organization's id looks like o-a1b2c3d4e5")
    regions = [region for region in regions.split(",") if region]
    if not regions:
        sys.exit("REGIONS is empty; name the Regions, separated by commas: REGIONS=us-east-1,eu-central-1")
    session = boto3.Session()
    zipped = pathlib.Path(package).read_bytes()
    url = publish(lambda service, region: session.client(service, region_name=region), organization, regions, zipped)
    print(f"published to {', '.join(regions)}, for {packages.architecture(zipped)}; now deploy infra/organization.yaml with TemplateUrl={url}")


if __name__ == "__main__":
    main(*sys.argv[1:])
