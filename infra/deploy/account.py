"""Says which account and Region a command goes to, and as whom, or what is missing for one."""

import os
import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError

NO_REGION = "no Region: give Region=us-east-1, or set AWS_REGION to the Region whose instances to look after"


def region_of(session):
    """The Region of the environment or the profile, or None. boto3 does not read AWS_REGION everywhere."""
    return os.environ.get("AWS_REGION") or session.region_name


def caller(session, region):
    """The account and the ARN of whoever calls, as STS in the Region says."""
    try:
        identity = session.client("sts", region_name=region).get_caller_identity()
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"no credentials that AWS accepts ({error}): set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    return identity["Account"], identity["Arn"]


def main():
    session = boto3.Session()
    region = region_of(session) or sys.exit(NO_REGION)
    account, arn = caller(session, region)
    print(f"account {account}, Region {region}, as {arn}")


if __name__ == "__main__":
    main()
