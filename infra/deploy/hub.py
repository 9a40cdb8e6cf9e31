"""Deploys the hub, and says what its members need to know of it.

    make hub OrganizationId=o-a1b2c3d4e5 AlarmEmail=security@example.com

It knows infra/hub.yaml, and the words of make's command line. It changes no member, and keeps every
parameter that is not named.
"""

import os
import pathlib
import sys

import account
import boto3
import parameters
import stack
from samcli.yamlhelper import yaml_parse

TEMPLATE = pathlib.Path(__file__).parents[1] / "hub.yaml"
# Words beside the template's parameters.
REGION, NAME = "Region", "StackName"


def chosen(words):
    """Region, name of the stack and values of parameters, as the words say."""
    try:
        values = parameters.given(words)
    except parameters.Unreadable as error:
        sys.exit(str(error))
    return values.pop(REGION, None), values.pop(NAME, None) or "imds-enforcer-hub", values


def checked(values, current):
    """Ends with all that the template would refuse."""
    kept = current["parameters"] if current else ()
    if refused := parameters.refusals(yaml_parse(TEMPLATE.read_text()), values, kept, {REGION, NAME}):
        sys.exit("\n".join(refused))


def show(change):
    for action, logical_id, kind, replacement in change.rows():
        print(f"{action:<8}{logical_id:<24}{kind}{', is replaced' if replacement == 'True' else ''}")


def deploy(hub, values):
    """Shows what would change, asks once, and deploys."""
    change = hub.change(TEMPLATE.read_text(), values, ["CAPABILITY_IAM"])
    if change is None:
        print("nothing would change")
        return
    show(change)
    agreed = False
    try:
        agreed = stack.confirmed("Deploy this?")
    finally:
        if not agreed:
            change.discard()
    if not agreed:
        sys.exit("nothing was changed")
    change.execute()


def tell(outputs):
    arn = outputs["HubBusArn"]
    print(f"\nHubBusArn {arn}\nConfirm the subscriptions by the links in the mails. Members send to the hub after one of\n")
    print(f"  make deploy HubBusArn={arn}\n  make organization HubBusArn={arn}\n\neach with the other words that it needs.")


def main(words):
    session = boto3.Session()
    given, name, values = chosen(words)
    region = given or account.region_of(session) or sys.exit(account.NO_REGION)
    number, arn = account.caller(session, region)
    hub = stack.Stack(session, region, name)
    current = hub.current()
    checked(values, current)
    print(f"{'update' if current else 'create'} {name} in account {number}, Region {region}, as {arn}")
    try:
        deploy(hub, values)
    except stack.Failed as error:
        sys.exit(str(error))
    tell(hub.current()["outputs"])


if __name__ == "__main__":
    main(parameters.of_make(os.environ.get("MAKEFLAGS", "")))
