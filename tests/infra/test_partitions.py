"""No partition is written out where another could be deployed to: every file of infra/ is searched."""

import re

import pytest
from template import ROOT

WRITTEN_OUT = re.compile(r"arn:aws[a-z-]*:|[\w.${}-]*\bamazonaws\.com(?:\.cn)?")
# Service principals, CloudTrail's event sources and the path of Identity Center's roles are the same in every partition.
SERVICES = {f"{it}.amazonaws.com" for it in ("cloudwatch", "delivery.logs", "ec2", "ec2fleet", "events", "lambda", "member.org.stacksets.cloudformation", "scheduler", "sns", "sso", "states")}
# Addresses for people, and ARNs that a test or an example of the manual has of partition aws.
EXAMPLES = re.compile(r".*\.test\.ts$|README\.md$|stand\.ts$")
LEFT_OUT = {"node_modules", "cdk.out", ".aws-sam", "__pycache__"}
SUFFIXES = {".yaml", ".json", ".py", ".ts", ".tf", ".toml"}


def files():
    for path in sorted((ROOT / "infra").rglob("*")):
        parts = path.relative_to(ROOT).parts
        if path.suffix in SUFFIXES and not LEFT_OUT & set(parts) and not EXAMPLES.match(path.name) and path.name != "package-lock.json":
            yield path


def written_out(text):
    """What names a partition, but for what is right as it is."""
    return [found for found in WRITTEN_OUT.findall(text) if found not in SERVICES]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_partition_is_written_out(path):
    assert written_out(path.read_text()) == []


@pytest.mark.parametrize(
    "seeded",
    ["Resource: arn:aws:s3:::bucket/*", "arn:aws-us-gov:iam::aws:policy/x", "https://bucket.s3.us-east-1.amazonaws.com/key", 'f"{bucket}.s3.amazonaws.com"', "logs.${AWS::Region}.amazonaws.com", "sqs.cn-north-1.amazonaws.com.cn"],
)
def test_a_partition_that_is_written_out_is_found(seeded):
    assert written_out(seeded)


def test_the_code_has_files_of_each_kind():
    assert {path.suffix for path in files()} >= {".yaml", ".py", ".ts", ".tf"}
