"""Deploys the stack to one Region or several: shows what would change, asks once, and ends with a table.

It refuses what the template would refuse before anything is built or called, and writes no file that
git tracks. What was not named keeps the value that the stack has.

    make deploy NAME=VALUE … [Region=…|Regions=…,…] [StackName=…] [YES=1]
"""

import importlib
import importlib.util
import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import artifacts
import build
import choice as choices
import command
import kept
import parameters
import sam
from botocore.exceptions import BotoCoreError, ClientError
from stack import Change, Failed, Stack, confirmed

CAPABILITIES = ["CAPABILITY_IAM"]
REPLACEMENTS = {"True": " (replaced)", "Conditional": " (perhaps replaced)"}


@dataclass
class Plan:
    """What becomes of one Region."""

    stack: Stack
    current: dict | None
    choice: choices.Choice
    change: Change | None = None

    def show(self, target):
        print(f"\naccount {target.account}, {self.stack.region}, stack {self.stack.name}: {command.becomes(self.current)}, as {target.arn}")
        print("\n".join(f"  {line}" for line in self.choice.lines))
        for action, logical_id, kind, replacement in self.change.rows() if self.change else []:
            print(f"  {action:<8} {logical_id:<24} {kind}{REPLACEMENTS.get(replacement, '')}")
        if not self.change:
            print("  nothing to change")


def refusals(template, values):
    """What can be refused without a call: a stack may have what is not given."""
    return parameters.refusals(template, values, kept=template["Parameters"], reserved=command.RESERVED) + command.architecture_of_package(values)


def of_the_key(target, region, values):
    """What is wrong with a key of one's own."""
    arn = values.get("KmsKeyArn")
    if not arn or not importlib.util.find_spec("key"):
        return []
    return importlib.import_module("key").refusals(target.session, region, target.account, arn)


def planned(template, target, given, today):
    """A plan for each Region, or all that stands against one."""
    plans, wrong = [], []
    for region in target.regions:
        stack = Stack(target.session, region, target.stack_name)
        current = stack.current()
        memory = kept.read(target.account, region, stack.name)
        choice = choices.choose(template, given, current and current["parameters"], memory, today)
        against = command.against(stack, current) or choice.refusals
        against = against or of_the_key(target, region, choice.values)
        wrong += [f"{region}: {it}" for it in against]
        plans.append(Plan(stack, current, choice))
    command.refuse(wrong)
    return plans


def prepare(template, target, plans):
    """Builds, uploads, and makes the change sets; where one fails, none stays."""
    architectures = [choices.architecture(template, plan.choice) for plan in plans]
    packages = build.packages(dict.fromkeys(architectures))
    for plan, architecture in zip(plans, architectures, strict=True):
        region = plan.stack.region
        try:
            url = artifacts.published(target.session, region, packages[architecture])
            plan.change = plan.stack.change(url, plan.choice.sent, CAPABILITIES)
        except (Failed, BotoCoreError, ClientError) as failure:
            discard(plans)
            command.refuse([f"{region}: {failure}"])
        plan.show(target)


def discard(plans):
    for plan in plans:
        if plan.change:
            plan.change.discard()


def keep(template, target, plan, given):
    """Keeps what the stack has now, so far as somebody chose it."""
    memory = kept.read(target.account, plan.stack.region, plan.stack.name)
    values = kept.worth_keeping(template, plan.stack.current()["parameters"], {*given, *memory, "EnforceSince"})
    kept.write(target.account, plan.stack.region, plan.stack.name, values)


def carried_out(template, target, plan, given):
    """The outcome of a Region, and its reason."""
    if plan.change is None:
        keep(template, target, plan, given)
        return "unchanged", ""
    print(f"deploying to {plan.stack.region}, which takes some minutes", flush=True)
    try:
        plan.change.execute()
    except Failed as failure:
        return "failed", str(failure)
    keep(template, target, plan, given)
    return "deployed", ""


def main():
    own, given = command.typed()
    template = sam.raw()
    target = command.target(own, refusals(template, given))
    print(target)
    plans = planned(template, target, given, f"{datetime.now(UTC):%Y-%m-%d}")
    prepare(template, target, plans)
    changes = [plan for plan in plans if plan.change]
    named = ", ".join(plan.stack.region for plan in changes)
    try:
        agreed = not changes or confirmed(f"\nDeploy {target.stack_name} to {named}?")
    except SystemExit:
        discard(plans)
        raise
    if not agreed:
        discard(plans)
        sys.exit("nothing was deployed")
    by_region = {plan.stack.region: plan for plan in plans}
    print()
    left = command.in_order(target.regions, lambda region: carried_out(template, target, by_region[region], given))
    discard([plan for plan in plans if plan.stack.region in left[1:]])
    if left:
        sys.exit(f"to go on: mend the reason, then run the same with Regions={','.join(left)}; a Region that is done is left as it is")


if __name__ == "__main__":
    command.run(main)
