"""Deletes the stack in one Region or several: names what goes and what stays, asks once, ends with a table.

It deletes nothing that outlives the stack by intention: the log, the dead letters, SAM's bucket.

    make destroy [Region=…|Regions=…,…] [StackName=…] [YES=1]

YES of the environment, which may be there for deployments, is no answer here.
"""

import sys
from dataclasses import dataclass

import command
import kept
import parameters
import sam
from botocore.exceptions import ClientError
from stack import Failed, Stack, confirmed

STAYS = ("Retain", "RetainExceptOnCreate")
# How to delete by hand what stays.
BY_HAND = {
    "AWS::Logs::LogGroup": "aws logs delete-log-group --region {region} --log-group-name {id}",
    "AWS::SQS::Queue": "aws sqs delete-queue --region {region} --queue-url {id}",
}


@dataclass
class Empty:
    """A stack that a change set was to create, which nobody executed."""

    stack: Stack
    id: str

    def delete(self):
        self.stack.delete(self.id, empty=True)

    def show(self, account):
        print(f"\naccount {account}, {self.stack.region}, stack {self.stack.name}: deletes an empty stack, which nobody agreed to create, with its change sets")


@dataclass
class Plan:
    """A stack that is there, with what it has."""

    stack: Stack
    current: dict
    resources: list[tuple[str, str, str]]
    staying: set[str]
    waiting: dict[str, int]

    def delete(self):
        self.stack.delete(self.current["id"])

    def show(self, account):
        print(f"\naccount {account}, {self.stack.region}, stack {self.stack.name}, {self.current['status']}: deletes")
        for logical_id, kind, physical_id in self.resources:
            if logical_id not in self.staying:
                print(f"  {logical_id:<24} {kind}{self.messages(physical_id, ', with the {} events that wait in it')}")
        print("and leaves")
        for logical_id, kind, physical_id in self.resources:
            if logical_id in self.staying:
                print(f"  {logical_id:<24} {physical_id}{self.messages(physical_id, ', with {} events')}")
        print("  the packages in SAM's bucket, under imds-enforcer/")

    def messages(self, queue, text):
        return text.format(self.waiting[queue]) if queue in self.waiting else ""


def staying(session, stack):
    """The logical ids that the stack's template keeps."""
    client = session.client("cloudformation", region_name=stack.region)
    body = client.get_template(StackName=stack.name, TemplateStage="Processed")["TemplateBody"]
    template = sam.yaml_parse(body) if isinstance(body, str) else body
    return {name for name, it in template.get("Resources", {}).items() if it.get("DeletionPolicy") in STAYS}


def waiting(session, region, resources):
    """How many messages each queue has, of those that may be counted."""
    sqs, counts = session.client("sqs", region_name=region), {}
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed"]
    for _, kind, physical_id in resources:
        if kind == "AWS::SQS::Queue":
            try:
                found = sqs.get_queue_attributes(QueueUrl=physical_id, AttributeNames=names)["Attributes"]
            except ClientError:
                continue
            counts[physical_id] = sum(map(int, found.values()))
    return counts


def foreign_rules(session, region, resources):
    """Rules of others on the stack's bus, which would keep it from being deleted."""
    events, own = session.client("events", region_name=region), {physical_id.split("|")[-1] for _, _, physical_id in resources}
    wrong = []
    for _, kind, bus in resources:
        if kind == "AWS::Events::EventBus":
            others = [it["Name"] for it in events.list_rules(EventBusName=bus)["Rules"] if it["Name"] not in own]
            wrong += [f"the bus {bus} has rules that are not the stack's: {', '.join(others)}; delete them first"] if others else []
    return wrong


def of_terraform(current, name):
    """Why a stack that Terraform's configuration made is not deleted from here."""
    return [f"{name} is Terraform's: run terraform destroy there"] if current and "CodeBucket" in current["parameters"] else []


def planned(target):
    """A plan for each Region that has the stack, or all that stands against one."""
    plans, wrong = {}, []
    for region in target.regions:
        stack = Stack(target.session, region, target.stack_name)
        current = stack.current()
        underway = current and current["status"].endswith("_IN_PROGRESS")
        against = [stack.obstacle(current)] if underway else command.foreign(current, stack.name) + of_terraform(current, stack.name)
        if current is None and (empty := stack.empty()) and not against:
            plans[region] = Empty(stack, empty)
        if current and not against:
            resources = stack.resources()
            against = foreign_rules(target.session, region, resources)
            counts = waiting(target.session, region, resources)
            plans[region] = Plan(stack, current, resources, staying(target.session, stack), counts)
        wrong += [f"{region}: {it}" for it in against]
    command.refuse(wrong)
    return plans


def forget(target, plan):
    """Keeps the choices for a later deployment, which is a first one."""
    memory = kept.read(target.account, plan.stack.region, plan.stack.name)
    values = {**memory, **kept.worth_keeping(sam.raw(), plan.current["parameters"], memory)}
    kept.write(target.account, plan.stack.region, plan.stack.name, values)


def carried_out(target, plan):
    """The outcome of a Region, and its reason."""
    if plan is None:
        return "no stack", ""
    print(f"deleting in {plan.stack.region}", flush=True)
    try:
        plan.delete()
    except Failed as failure:
        return "failed", str(failure)
    if isinstance(plan, Empty):
        return "deleted", "it was empty"
    forget(target, plan)
    for logical_id, kind, physical_id in plan.resources:
        if logical_id in plan.staying and kind in BY_HAND:
            print(f"{logical_id} stays; to delete it: {BY_HAND[kind].format(region=plan.stack.region, id=physical_id)}")
    return "deleted", "a later deployment has the same choices, and enforces since its own day"


def main():
    own, others = command.typed()
    unknown = [parameters.unknown_name(name, command.RESERVED) for name in others]
    target = command.target(own, unknown)
    print(target)
    plans = planned(target)
    for plan in plans.values():
        plan.show(target.account)
    if plans and not confirmed(f"\nDelete {target.stack_name} in {', '.join(plans)}?", own.get("YES", "")):
        sys.exit("nothing was deleted")
    left = command.in_order(target.regions, lambda region: carried_out(target, plans.get(region)))
    if left:
        sys.exit(f"to go on: mend the reason, then run make destroy Regions={','.join(left)} StackName={target.stack_name}")


if __name__ == "__main__":
    command.run(main)
