"""Deploys the hub: shows what would change, asks once, and says what its members need to know of it.

    make hub OrganizationId=o-… AlarmEmail=… ResultEmail=… [NAME=VALUE …] [Region=…] [StackName=…] [YES=1]

It changes no member. What was not named keeps the value that the stack has.
"""

import pathlib
import sys

import command
import parameters
from samcli.yamlhelper import yaml_parse
from stack import Failed, Stack, confirmed

TEMPLATE = pathlib.Path(__file__).parents[1] / "hub.yaml"
NAME = "imds-enforcer-hub"


def refusals(own, template, given):
    """What can be refused without a call: a stack may have what is not given."""
    several = ["a hub is one stack in one Region: give Region in place of Regions"] if "," in own.get("Regions", "") else []
    return parameters.refusals(template, given, kept=template["Parameters"], reserved=command.RESERVED) + several


def planned(hub, template, given):
    """What the stack is now; ends with all that stands against a change."""
    current = hub.current()
    against = command.foreign(current, hub.name) or list(filter(None, [hub.obstacle(current)]))
    command.refuse(against or parameters.refusals(template, given, kept=current["parameters"] if current else ()))
    return current


def show(change):
    for action, logical_id, kind, replacement in change.rows():
        print(f"  {action:<8} {logical_id:<24} {kind}{' (replaced)' if replacement == 'True' else ''}")


def carry_out(hub, given):
    """Deploys what somebody agreed to."""
    change = hub.change(TEMPLATE.read_text(), given, ["CAPABILITY_IAM"])
    if change is None:
        print("  nothing to change")
        return
    show(change)
    agreed = False
    try:
        agreed = confirmed(f"\nDeploy {hub.name} to {hub.region}?")
    finally:
        if not agreed:
            change.discard()
    if not agreed:
        sys.exit("nothing was deployed")
    change.execute()


def tell(arn):
    print(f"\nHubBusArn={arn}\nConfirm the subscriptions by the links in the mails. Members send to the hub after one of\n")
    print(f"  make deploy HubBusArn={arn}\n  make organization HubBusArn={arn}\n\neach with the other words that it needs.")


def main():
    own, given = command.typed()
    template = yaml_parse(TEMPLATE.read_text())
    target = command.target({**own, "StackName": own.get("StackName") or NAME}, refusals(own, template, given))
    print(target)
    hub = Stack(target.session, target.regions[0], target.stack_name)
    current = planned(hub, template, given)
    print(f"\nstack {hub.name}: {'update' if current else 'first deployment'}")
    try:
        carry_out(hub, given)
    except Failed as failure:
        command.refuse([str(failure)])
    tell(hub.current()["outputs"]["HubBusArn"])


if __name__ == "__main__":
    main()
