"""Shows an organization's guardrails as `infra/guardrails.yaml` makes them, and deploys them.

It knows the limits that Organizations sets to policies. It attaches nothing to a target that was not
named, enables no policy type, and deploys nothing that it did not show.
"""

import json
import pathlib
import sys
from dataclasses import dataclass, field

import account as accounts
import boto3
import command
import parameters
from botocore.exceptions import BotoCoreError, ClientError
from resolver import Resolver
from samcli.yamlhelper import yaml_parse
from stack import Failed, Stack, confirmed

TEMPLATE = pathlib.Path(__file__).resolve().parents[1] / "guardrails.yaml"
STACK = "imds-enforcer-guardrails"
# The most characters that Organizations takes in a policy, and the Quotas page states.
LIMITS = {"SERVICE_CONTROL_POLICY": 5120, "DECLARATIVE_POLICY_EC2": 10000}
WITHOUT_REGION = "no Region: name one for the stack, as in make guardrails Region=us-east-1, and always the same"


@dataclass
class Policy:
    """A policy as Organizations would get it."""

    name: str
    type: str
    document: dict
    targets: list = field(default_factory=list)

    @property
    def text(self):
        return json.dumps(self.document, separators=(",", ":"))

    @property
    def size(self):
        return len(self.text.encode())

    def shown(self):
        attached = ", ".join(self.targets) or "no target"
        head = f"{self.name} ({self.type}), {self.size} of {LIMITS[self.type]} characters, attached to {attached}"
        return f"{head}\n{json.dumps(self.document, indent=2)}\n"


def template():
    return yaml_parse(TEMPLATE.read_text())


def policies(values, partition="aws", stack=STACK):
    """The policies of a deployment with these parameters, by logical id."""
    resolver = Resolver(template(), values, {"AWS::Partition": partition, "AWS::StackName": stack})
    return {name: policy(it["Properties"]) for name, it in resolver.resources().items()}


def policy(properties):
    content = properties["Content"]
    document = json.loads(content) if isinstance(content, str) else content
    return Policy(properties["Name"], properties["Type"], document, properties.get("TargetIds", []))


def too_large(rendered):
    """What Organizations would refuse for its size."""
    return [
        f"{it.name} has {it.size} characters, and Organizations takes {LIMITS[it.type]}: name fewer roles, or by a pattern such as team-*"
        for it in rendered.values()
        if it.size > LIMITS[it.type]
    ]


def show(values, partition, stack):
    """Prints the policies; ends where Organizations would refuse one."""
    rendered = policies(values, partition, stack)
    print("\n".join(it.shown() for it in rendered.values()))
    if refused := too_large(rendered):
        sys.exit("\n".join(refused))
    return rendered


def caller(session, region):
    """The account and the ARN of whoever calls, or None and what is missing for it."""
    if not region:
        return None, WITHOUT_REGION
    try:
        return accounts.caller(session, region), None
    except SystemExit as missing:
        return None, missing.code


def disabled(organizations, rendered):
    """The types of policies that the organization has not enabled, each with the command that does."""
    [root] = organizations.list_roots()["Roots"]
    enabled = {it["Type"] for it in root["PolicyTypes"] if it["Status"] == "ENABLED"}
    command = f"aws organizations enable-policy-type --root-id {root['Id']} --policy-type"
    wanted = sorted({it.type for it in rendered.values()} - enabled)
    return [f"{kind} is not enabled in this organization: run {command} {kind} in the management account" for kind in wanted]


def refuse_what_is_disabled(session, region, rendered):
    try:
        missing = disabled(session.client("organizations", region_name=region), rendered)
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"this account can't ask Organizations ({error}): use the management account, or a delegated administrator of its policies")
    if missing:
        sys.exit("\n".join(missing))


def agreed(stack, change):
    """The answer to the question; without a yes, nothing of the change set stays."""
    answer = False
    try:
        answer = confirmed(f"Change stack {stack.name} in {stack.region}?")
    finally:
        if not answer:
            change.discard()
    return answer


def deploy(stack, values):
    """Makes the change set, asks once, and executes it."""
    try:
        change = stack.change(TEMPLATE.read_text(), values)
        if change is None:
            return print(f"stack {stack.name} in {stack.region} has all this already: nothing changes")
        for row in change.rows():
            print("  ".join(row))
        if not agreed(stack, change):
            sys.exit("nothing was changed")
        change.execute()
        print(f"stack {stack.name} in {stack.region} is deployed")
    except Failed as error:
        sys.exit(str(error))


def main():
    own, values = command.typed()
    command.refuse(parameters.refusals(template(), values, reserved=("Region", "StackName")))
    session, name = boto3.Session(), own.get("StackName") or STACK
    region = own.get("Region") or accounts.region_of(session)
    who, missing = caller(session, region)
    if missing:
        show(values, session.get_partition_for_region(region or "us-east-1"), name)
        sys.exit(f"only shown, not deployed: {missing}")
    print(f"account {who[0]}, Region {region}, as {who[1]}\n")
    stack = Stack(session, region, name)
    rendered = show({**kept(stack), **values}, who[1].split(":")[1], name)
    refuse_what_is_disabled(session, region, rendered)
    deploy(stack, values)
    if not any(it.targets for it in rendered.values()):
        print("the policies are attached to nothing: try them on one account first, as by make guardrails TargetIds=111122223333")


def kept(stack):
    """The parameters that the deployed stack keeps where no others are given."""
    try:
        deployed = (stack.current() or {}).get("parameters", {})
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"CloudFormation does not answer for stack {stack.name} in {stack.region}: {error}")
    return {name: value for name, value in deployed.items() if name in template()["Parameters"]}


if __name__ == "__main__":
    main()
