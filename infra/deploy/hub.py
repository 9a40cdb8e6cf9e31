"""Deploys the hub: shows what would change, asks once, and says what its members need to know of it.

    make hub OrganizationId=o-… AlarmEmail=… ResultEmail=… [NAME=VALUE …] [Region=…] [StackName=…] [YES=1]

It changes no member. What was not named keeps the value that the stack has.
"""

import pathlib
import sys

import command
import key as keys
import parameters
from samcli.yamlhelper import yaml_parse
from stack import Begun, Failed, Stack

TEMPLATE = pathlib.Path(__file__).parents[1] / "hub.yaml"
NAME = "imds-enforcer-hub"
# Parameters that every build of the hub has had.
MARKS = {"OrganizationId", "SilenceHours"}


def refusals(own, template, given):
    """What can be refused without a call: a stack may have what is not given."""
    several = ["a hub is one stack in one Region: give Region in place of Regions"] if "," in own.get("Regions", "") else []
    return parameters.refusals(template, given, kept=template["Parameters"], reserved=command.RESERVED) + several


def of_the_key(target, values):
    """What is wrong with a key of one's own."""
    if not values.get("KmsKeyArn"):
        return []
    organization = values.get("OrganizationId")
    return keys.refusals(target.session, target.regions[0], target.account, values["KmsKeyArn"], organization=organization, needs=keys.uses_of_the_hub)


def planned(target, hub, template, given):
    """What the stack is now; ends with all that stands against a change."""
    current = hub.current()
    kept = current["parameters"] if current else {}
    against = command.against(hub, current, MARKS) or parameters.refusals(template, given, kept=kept)
    command.refuse(against or of_the_key(target, {**kept, **given}))
    return current


def tell(arn):
    print(f"\nHubBusArn={arn}\nConfirm the subscriptions by the links in the mails. Members send to the hub after one of\n")
    print(f"  make deploy HubBusArn={arn}\n  make organization HubBusArn={arn}\n\neach with the other words that it needs.")


def main():
    own, given = command.typed()
    template = yaml_parse(TEMPLATE.read_text())
    target = command.target({**own, "StackName": own.get("StackName") or NAME}, refusals(own, template, given))
    print(target)
    hub = Stack(target.session, target.regions[0], target.stack_name)
    current = planned(target, hub, template, given)
    print(f"\nstack {hub.name} in {hub.region}: {command.becomes(current)}")
    try:
        change = hub.change(TEMPLATE.read_text(), given, ["CAPABILITY_IAM"])
        if command.agreed(change):
            change.execute()
    except Begun as failure:
        sys.exit(f"{failure}\nthe deployment was begun: the events of stack {hub.name} in {hub.region} show what became of it")
    except Failed as failure:
        command.refuse([str(failure)])
    tell(hub.current()["outputs"]["HubBusArn"])


if __name__ == "__main__":
    command.run(main)
