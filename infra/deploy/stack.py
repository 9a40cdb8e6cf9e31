"""One CloudFormation stack in one Region: what it has, what would change, and the change itself.

It executes nothing that it was not told to, and changes no parameter that it was not given: those
keep the stack's value.
"""

import os
import sys
import time
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError, WaiterError

# How often CloudFormation is asked, and for how long: an hour.
WAIT = {"Delay": 3, "MaxAttempts": 1200}
# Parameters that every build of an account's own stack has had, and no other stack of this project has: make destroy deletes such a stack.
MARKS = {"Mode", "StateChangeEvents"}
READY = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"}
WITHOUT_CHANGES = ("didn't contain changes", "No updates are to be performed")
GONE = ("ChangeSetNotFound", "ChangeSetNotFoundException")
EXECUTED = ("InvalidChangeSetStatus", "InvalidChangeSetStatusException")
# What CloudFormation says of resources that failed only because another one did.
FOLLOWS = ("cancelled", "canceled")


class Failed(Exception):
    """What CloudFormation refused, or failed to do, with its reasons."""


class Begun(Failed):
    """What failed after CloudFormation had begun to change the stack."""


def confirmed(question, yes=None):
    """Asks once on the terminal. YES=1 is the answer in advance; without either, nothing is done.

    `yes` is what was typed for make, where an answer of the environment does not count.
    """
    if (os.environ.get("YES") if yes is None else yes) == "1":
        return True
    if not sys.stdin.isatty():
        typed = "" if yes is None else " on the command line of make"
        sys.exit(f"nothing was changed: there is no terminal to ask on; with YES=1{typed}, nothing is asked")
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print()
        return False


class Stack:
    """A stack by its name, whether it is there or not."""

    def __init__(self, session, region, name):
        self.region, self.name = region, name
        self.client = session.client("cloudformation", region_name=region)

    def _described(self, name):
        try:
            return self.client.describe_stacks(StackName=name)["Stacks"][0]
        except ClientError as error:
            if "does not exist" in error.response["Error"]["Message"]:
                return None
            raise

    def empty(self):
        """The id of a stack that a change set is to create, and that nobody has begun to create; or None."""
        found = self._described(self.name)
        return found["StackId"] if found and found["StackStatus"] == "REVIEW_IN_PROGRESS" else None

    def current(self):
        """What the deployed stack has, or None where there is none, or only one whose creation nobody began."""
        found = self._described(self.name)
        if found is None or found["StackStatus"] in ("REVIEW_IN_PROGRESS", "DELETE_COMPLETE"):
            return None
        return {
            "id": found["StackId"],
            "status": found["StackStatus"],
            "created": found["CreationTime"].date(),
            "parameters": {it["ParameterKey"]: it.get("ParameterValue", "") for it in found.get("Parameters", [])},
            "outputs": {it["OutputKey"]: it["OutputValue"] for it in found.get("Outputs", [])},
        }

    def moved(self, then):
        """Whether the stack is another, or has other values, than it was then: building takes minutes."""
        before, now = ([it["id"], it["parameters"]] if it else None for it in (then, self.current()))
        return before != now

    def obstacle(self, current):
        """Why a stack can't be changed as it is, and what to do, or None."""
        status = current["status"] if current else "CREATE_COMPLETE"
        named = f"stack {self.name} in {self.region} is {status}"
        by_hand = f"--stack-name {self.name} --region {self.region}"
        if status in READY:
            return None
        if status.endswith("_IN_PROGRESS"):
            return f"{named}: another operation is under way; wait for its end and try again"
        if status == "UPDATE_ROLLBACK_FAILED":
            return f"{named}: an update failed, and so did its rollback; run aws cloudformation continue-update-rollback {by_hand}, then try again"
        if status == "UPDATE_FAILED":
            return f"{named}: an update failed and was not rolled back; run aws cloudformation rollback-stack {by_hand}, then try again"
        by_make = current["parameters"].keys() >= MARKS
        removal = f"make destroy Region={self.region} StackName={self.name}" if by_make else f"aws cloudformation delete-stack {by_hand}"
        return f"{named}, and can only be deleted: run {removal}, then try again"

    def change(self, template, parameters, capabilities=()):
        """A change set, of which nothing is executed, or None where nothing would change.

        `template` is a body, or the URL of one in S3. What the stack has and `parameters` does not
        name keeps its value.
        """
        source = {"TemplateURL" if template.startswith(("https://", "http://")) else "TemplateBody": template}
        current = self.current()
        if obstacle := self.obstacle(current):
            raise Failed(obstacle)
        kind, name = "UPDATE" if current else "CREATE", f"imds-enforcer-{time.time_ns()}"
        try:
            values = self._values(source, parameters, current["parameters"] if current else {})
            made = self.client.create_change_set(
                StackName=self.name, ChangeSetName=name, ChangeSetType=kind, Parameters=values, Capabilities=list(capabilities), **source
            )
        except ClientError as error:
            raise Failed(error.response["Error"]["Message"]) from error
        return self._awaited(Change(self, made["Id"], made["StackId"], kind))

    def _values(self, source, parameters, previous):
        stated = {it["ParameterKey"] for it in self.client.get_template_summary(**source)["Parameters"]}
        kept = sorted(stated & previous.keys() - parameters.keys())
        named = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
        return named + [{"ParameterKey": name, "UsePreviousValue": True} for name in kept]

    def _awaited(self, change):
        try:
            self.client.get_waiter("change_set_create_complete").wait(ChangeSetName=change.id, WaiterConfig=WAIT)
        except WaiterError as error:
            reason = self.client.describe_change_set(ChangeSetName=change.id).get("StatusReason") or str(error)
            change.discard()
            if any(it in reason for it in WITHOUT_CHANGES):
                return None
            raise Failed(reason) from error
        return change

    def resources(self):
        """Logical id, type and physical id of each resource that the stack has."""
        pages = self.client.get_paginator("list_stack_resources").paginate(StackName=self.name)
        rows = [it for page in pages for it in page["StackResourceSummaries"] if it["ResourceStatus"] != "DELETE_COMPLETE"]
        return [(it["LogicalResourceId"], it["ResourceType"], it.get("PhysicalResourceId", "")) for it in rows]

    def delete(self, stack_id, *, empty=False):
        """Deletes a stack, and waits until it is gone. What has a policy to stay, stays. `empty` is one that must still be empty."""
        if empty and self.empty() != stack_id:
            raise Failed("it is not empty any more: somebody deployed it meanwhile")
        try:
            self.client.delete_stack(StackName=stack_id)
        except ClientError as error:
            raise Failed(error.response["Error"]["Message"]) from error
        self.awaited("stack_delete_complete", stack_id)

    def delete_empty(self, stack_id, change_set_id):
        """Deletes a stack that a change set would have created, if it is still empty and nobody has another change set for it."""
        found = self._described(stack_id)
        if found is None or found["StackStatus"] != "REVIEW_IN_PROGRESS":
            return
        pages = self.client.get_paginator("list_change_sets").paginate(StackName=self.name)
        if any(it["ChangeSetId"] != change_set_id for page in pages for it in page["Summaries"]):
            return
        self.client.delete_stack(StackName=stack_id)
        self.client.get_waiter("stack_delete_complete").wait(StackName=stack_id, WaiterConfig=WAIT)

    def awaited(self, end, stack_id, hours=1):
        """Waits for the end of what was begun."""
        try:
            self.client.get_waiter(end).wait(StackName=stack_id, WaiterConfig={**WAIT, "MaxAttempts": hours * WAIT["MaxAttempts"]})
        except WaiterError as error:
            raise Begun(self._why(stack_id, error)) from error

    def _why(self, stack_id, error):
        """Why an operation did not end well, so far as that can be known: credentials may have expired meanwhile."""
        [found] = error.last_response.get("Stacks") or [{"StackStatus": ""}]
        status = found["StackStatus"]
        events = f"aws cloudformation describe-stack-events --stack-name {self.name} --region {self.region}"
        if not status or (status.endswith("_IN_PROGRESS") and "ROLLBACK" not in status):
            return f"CloudFormation began, and how it ended is not known: {error}; run {events}"
        try:
            return self.reasons(stack_id)
        except (BotoCoreError, ClientError) as unknown:
            return f"the stack is {status}, and its events can't be read: {unknown}; run {events}"

    def reasons(self, stack_id):
        """Which resources failed in the last operation, and why."""
        pages = self.client.get_paginator("describe_stack_events").paginate(StackName=stack_id)
        found = []
        for event in (it for page in pages for it in page["StackEvents"]):
            status, reason = event["ResourceStatus"], event.get("ResourceStatusReason", "")
            if status.endswith("_FAILED") and not any(it in reason.lower() for it in FOLLOWS):
                found.append(f"{event['LogicalResourceId']}: {reason or status}")
            if event["PhysicalResourceId"] == stack_id and status in ("CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS", "DELETE_IN_PROGRESS"):
                break
        return "; ".join(reversed(found)) or "CloudFormation names no resource: see the events of the stack"


@dataclass
class Change:
    """A change set that is ready to be executed."""

    stack: Stack
    id: str
    stack_id: str
    kind: str

    def rows(self):
        """Action, logical id, type and replacement of each resource that would change."""
        pages = self.stack.client.get_paginator("describe_change_set").paginate(ChangeSetName=self.id)
        changes = [it["ResourceChange"] for page in pages for it in page.get("Changes", [])]
        return [(it["Action"], it["LogicalResourceId"], it["ResourceType"], it.get("Replacement", "")) for it in changes]

    def execute(self, hours=1):
        """Executes it, and waits for the end, for at most so many hours."""
        try:
            self.stack.client.execute_change_set(ChangeSetName=self.id)
        except ClientError as error:
            raise Failed(error.response["Error"]["Message"]) from error
        self.stack.awaited(f"stack_{self.kind.lower()}_complete", self.stack_id, hours)

    def discard(self):
        """Leaves nothing of it: of a stack that it would have created, not the empty stack either, unless that has become another's."""
        try:
            self.stack.client.delete_change_set(ChangeSetName=self.id)
        except ClientError as error:
            if error.response["Error"]["Code"] in EXECUTED:
                return
            if error.response["Error"]["Code"] not in GONE:
                raise
        if self.kind == "CREATE":
            self.stack.delete_empty(self.stack_id, self.id)
