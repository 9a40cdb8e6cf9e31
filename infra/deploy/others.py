"""Which other stacks of a Region look after its instances too: two of them would each enforce what the other leaves.

It looks at what CloudFormation says of stacks, and changes none.
"""

from botocore.exceptions import ClientError
from stack import MARKS

DESCRIPTION = "imds-enforcer: requires"
# What outputs of every build have in their names: the CDK puts its own words around them, and has no parameters.
OUTPUTS = ("FunctionName", "DeadLetterQueueUrl", "SweepRuleName")
# Stacks that have no resource, or not for long.
WITHOUT_RESOURCES = {"REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "DELETE_IN_PROGRESS", "DELETE_COMPLETE"}


def enforces(stack):
    """Whether a stack, as DescribeStacks has it, is one of this project's, whoever deployed it."""
    parameters = {it["ParameterKey"] for it in stack.get("Parameters", [])}
    outputs = [it["OutputKey"] for it in stack.get("Outputs", [])]
    known = stack.get("Description", "").startswith(DESCRIPTION) or parameters >= MARKS
    return known or all(any(name in it for it in outputs) for name in OUTPUTS)


def enforcers(client, name):
    """The names of the Region's other stacks that enforce; None where the caller may not list stacks."""
    try:
        pages = client.get_paginator("describe_stacks").paginate()
        stacks = [it for page in pages for it in page["Stacks"] if it["StackStatus"] not in WITHOUT_RESOURCES]
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("AccessDenied", "AccessDeniedException"):
            raise
        return None
    return [it["StackName"] for it in stacks if it["StackName"] != name and enforces(it)]
