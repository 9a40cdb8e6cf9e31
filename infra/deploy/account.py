"""Says which account and Region a deployment goes to, or what is missing for one."""

import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError

session = boto3.Session()
if not session.region_name:
    sys.exit("no Region: set AWS_DEFAULT_REGION to the Region whose instances to look after")
try:
    caller = session.client("sts").get_caller_identity()
except (BotoCoreError, ClientError) as error:
    sys.exit(f"no credentials that AWS accepts ({error}): set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
print(f"account {caller['Account']}, Region {session.region_name}, as {caller['Arn']}")
