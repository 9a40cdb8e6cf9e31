"""Deploys the stack to one Region or several: shows what would change, asks once, and ends with a table.

It refuses what the template would refuse before anything is built or called, and writes no file that
git tracks. What was not named keeps the value that the stack has.

    make deploy NAME=VALUE … [Region=…|Regions=…,…] [StackName=…] [YES=1]
"""

import sys
from dataclasses import dataclass
from datetime import UTC, datetime

import artifacts
import build
import choice as choices
import command
import kept
import key as keys
import others
import parameters
import sam
from botocore.exceptions import BotoCoreError, ClientError
from stack import Change, Failed, Stack, confirmed

CAPABILITIES = ["CAPABILITY_IAM"]


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
        command.show(self.change)


def refusals(template, values):
    """What can be refused without a call: a stack may have what is not given."""
    return parameters.refusals(template, values, kept=template["Parameters"], reserved=command.RESERVED) + command.architecture_of_package(values)


def of_the_key(target, region, values):
    """What is wrong with a key of one's own."""
    arn = values.get("KmsKeyArn")
    return keys.refusals(target.session, region, target.account, arn) if arn else []


def considered(template, target, region, given, today, named):
    """The plan for a Region, and what stands against it."""
    stack = Stack(target.session, region, target.stack_name)
    current = stack.current()
    memory = kept.read(target.account, region, stack.name)
    choice = choices.choose(template, given, current and current["parameters"], memory, today)
    against = command.against(stack, current) or choice.refusals
    if not against and current is None and not named:
        against = beside_others(stack, choice)
    return Plan(stack, current, choice), against or of_the_key(target, region, choice.values)


def beside_others(stack, choice):
    """Why nobody should create a stack here who may not know of others."""
    found = others.enforcers(stack.client, stack.name)
    if found is None:
        choice.lines.append("not known: whether another stack of the Region enforces already, since the caller may not list stacks")
    if not found:
        return []
    return [
        f"{', '.join(found)} already looks after the instances of this Region: update it as it was deployed, with"
        f" StackName={found[0]} if that was make deploy or sam deploy; StackName={stack.name} creates a second one beside it"
    ]


def planned(template, target, given, today, named):
    """A plan for each Region, or all that stands against one. `named`: the stack's name was given."""
    plans, wrong = [], []
    for region in target.regions:
        plan, against = considered(template, target, region, given, today, named)
        wrong += [f"{region}: {it}" for it in against]
        plans.append(plan)
    observing = [plan.stack.region for plan in plans if plan.choice.values.get("Mode") == "observe"]
    observing += [region for region, it in kept.elsewhere(target.account, target.regions, target.stack_name).items() if it.get("Mode") == "observe"]
    for plan in plans:
        if plan.current is None:
            wrong += [f"{plan.stack.region}: {it}" for it in choices.unstated(template, plan.choice, observing)]
    command.refuse(wrong)
    return plans


def prepare(template, target, plans):
    """Builds, uploads, makes the change sets and shows them."""
    architectures = [choices.architecture(template, plan.choice) for plan in plans]
    packages = build.packages(dict.fromkeys(architectures))
    for plan, architecture in zip(plans, architectures, strict=True):
        region = plan.stack.region
        try:
            url = artifacts.published(target.session, region, packages[architecture])
            plan.change = plan.stack.change(url, plan.choice.sent, CAPABILITIES)
            moved = plan.stack.moved(plan.current)
        except (Failed, BotoCoreError, ClientError) as failure:
            command.refuse([f"{region}: {failure}"])
        command.refuse([f"{region}: somebody else changed stack {plan.stack.name} meanwhile: run the same again"] if moved else [])
        plan.show(target)


def discard(plans):
    """Leaves no change set that was not executed, so far as CloudFormation lets it."""
    for plan in plans:
        try:
            if plan.change:
                plan.change.discard()
        except (BotoCoreError, ClientError) as error:
            print(f"{plan.stack.region}: a change set of stack {plan.stack.name} stays: {error}", file=sys.stderr)


def keep(template, target, plan, given):
    """Keeps what the stack has now, so far as somebody chose it."""
    memory = kept.read(target.account, plan.stack.region, plan.stack.name)
    values = kept.worth_keeping(template, plan.stack.current()["parameters"], {*given, *memory})
    kept.write(target.account, plan.stack.region, plan.stack.name, values)


def carried_out(template, target, plan, given):
    """The outcome of a Region, and its reason, whatever happens there."""
    outcome = "unchanged"
    try:
        if plan.change:
            print(f"deploying to {plan.stack.region}, which takes some minutes", flush=True)
            plan.change.execute()
            outcome, plan.change = "deployed", None
        keep(template, target, plan, given)
    except KeyboardInterrupt:
        return "failed", "broken off: what CloudFormation has begun goes on there"
    except (Failed, BotoCoreError, ClientError, OSError) as failure:
        return (outcome, f"but what was chosen is not kept: {failure}") if plan.change is None else ("failed", str(failure))
    return outcome, ""


def agreed(target, plans):
    """Whether somebody agreed, or nothing is to be agreed to."""
    named = ", ".join(plan.stack.region for plan in plans if plan.change)
    return not named or confirmed(f"\nDeploy {target.stack_name} to {named}?")


def carry_out(template, target, plans, given):
    """Deploys to one Region after the other; ends with how to go on, if anything is left."""
    by_region = {plan.stack.region: plan for plan in plans}
    print()
    left = command.in_order(target.regions, lambda region: carried_out(template, target, by_region[region], given))
    if left:
        sys.exit(f"to go on: mend the reason, then run the same with Regions={','.join(left)}; a Region that is done is left as it is")


def main():
    own, given = command.typed()
    template = sam.raw()
    target = command.target(own, refusals(template, given))
    print(target)
    plans = planned(template, target, given, f"{datetime.now(UTC):%Y-%m-%d}", bool(own.get("StackName")))
    try:
        prepare(template, target, plans)
        if not agreed(target, plans):
            sys.exit("nothing was deployed")
        carry_out(template, target, plans, given)
    finally:
        discard(plans)


if __name__ == "__main__":
    command.run(main)
