"""Shows an organization's guardrails as `infra/guardrails.yaml` makes them, and deploys them.

It knows the limits that Organizations sets to policies. It attaches nothing to a target that was not
named, enables no policy type, deploys nothing that it did not show, and locks nobody out who calls it.
"""

import json
import pathlib
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import account as accounts
import boto3
import command
import parameters
from botocore.exceptions import BotoCoreError, ClientError
from partition import partition
from resolver import Resolver
from samcli.yamlhelper import yaml_parse
from stack import Failed, Stack

TEMPLATE = pathlib.Path(__file__).resolve().parents[1] / "guardrails.yaml"
STACK = "imds-enforcer-guardrails"
# Parameters that every build of the stack has had.
MARKS = {"TargetIds", "DeployingRoles"}
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


def denied(rendered, caller_arn, resource):
    """Whether the policies keep a caller from changing a resource, once they are attached to its account."""
    [statement] = [it for it in rendered["KeepEnforcer"].document["Statement"] if it["Sid"] == "KeepEnforcer"]
    is_kept = any(fnmatchcase(resource, pattern) for pattern in statement["Resource"])
    return is_kept and not any(fnmatchcase(caller_arn, pattern) for pattern in statement["Condition"]["ArnNotLike"]["aws:PrincipalArn"])


def principal(session, region, arn):
    """What the policies compare a caller by: of an assumed role, the role with its path, which STS leaves out."""
    kind, _, rest = arn.split(":", 5)[5].partition("/")
    if kind != "assumed-role":
        return arn
    name = rest.split("/")[0]
    try:
        return session.client("iam", region_name=region).get_role(RoleName=name)["Role"]["Arn"]
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"the path of the role {name} can't be read, so that it may lock itself out: allow it iam:GetRole on itself ({error})\nnothing was changed")


def above(organizations, account):
    """The account, the organizational units that it is in, and the root."""
    places = [account]
    while not places[-1].startswith("r-"):
        places.append(organizations.list_parents(ChildId=places[-1])["Parents"][0]["Id"])
    return places


def binds(session, region, account, targets):
    """Whether policies that are attached to these targets bind the account itself; they never bind the management account."""
    organizations = session.client("organizations", region_name=region)
    try:
        if organizations.describe_organization()["Organization"]["MasterAccountId"] == account:
            return False
        return any(place in targets for place in above(organizations, account))
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"Organizations does not say where account {account} is ({error}): allow organizations:DescribeOrganization and organizations:ListParents")


def refuse_to_lock_out(session, stack, who, rendered):
    """Ends where the policies would keep the caller from changing or lifting them."""
    account, arn = who
    targets = rendered["KeepEnforcer"].targets
    if not targets or not binds(session, stack.region, account, targets):
        return
    caller_arn = principal(session, stack.region, arn)
    if not denied(rendered, caller_arn, f"arn:{arn.split(':')[1]}:cloudformation:{stack.region}:{account}:stack/{stack.name}/id"):
        return
    role = caller_arn.split(":role/")[1] if ":role/" in caller_arn else None
    advice = f"add {role} to DeployingRoles" if role else "call as a role that DeployingRoles names"
    sys.exit(
        f"{caller_arn} could not change or lift the guardrails any more, since they would bind account {account}, too:"
        f" {advice}, or use the management account\nnothing was changed"
    )


def following(values):
    """What comes after these parameters, the mildest first; None where nothing is left that is for everybody."""
    chosen = {name: it.get("Default") for name, it in template()["Parameters"].items()} | values
    if not chosen["TargetIds"]:
        return "the policies are attached to nothing: try them on one account first, as by make guardrails TargetIds=111122223333"
    for name in ("DeclarativePolicy", "HttpTokensEnforced", "TokensPolicy"):
        if chosen[name] != "on":
            return f"after a week without a refusal that is not meant, the next is make guardrails {name}=on"
    return None


def deploy(stack, values):
    """Makes the change set, asks once, and executes it."""
    try:
        change = stack.change(TEMPLATE.read_text(), values)
        if not command.agreed(change):
            return
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
        show(values, partition(region or "us-east-1"), name)
        sys.exit(f"only shown, not deployed: {missing}")
    print(f"account {who[0]}, Region {region}, as {who[1]}\n")
    stack = Stack(session, region, name)
    current = stack.current()
    command.refuse(command.against(stack, current, MARKS))
    chosen = {**kept(current), **values}
    rendered = show(chosen, who[1].split(":")[1], name)
    refuse_what_is_disabled(session, region, rendered)
    refuse_to_lock_out(session, stack, who, rendered)
    deploy(stack, values)
    if then := following(chosen):
        print(f"{then} Region={region}" + ("" if name == STACK else f" StackName={name}"))


def kept(current):
    """The parameters that the deployed stack keeps where no others are given."""
    stated, deployed = template()["Parameters"], current["parameters"] if current else {}
    return {name: value for name, value in deployed.items() if name in stated}


if __name__ == "__main__":
    command.run(main)
