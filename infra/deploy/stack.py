"""One CloudFormation stack in one Region: what it has, what would change, and the change itself.

It executes nothing that it was not told to, and changes no parameter that it was not given: those
keep the stack's value.
"""

import os
import sys
import time
from dataclasses import dataclass

from botocore.exceptions import ClientError, WaiterError

# How often CloudFormation is asked, and for how long: an hour.
WAIT = {"Delay": 3, "MaxAttempts": 1200}
READY = {"CREATE_COMPLETE", "UPDATE_COMPLETE", "UPDATE_ROLLBACK_COMPLETE", "IMPORT_COMPLETE", "IMPORT_ROLLBACK_COMPLETE"}
WITHOUT_CHANGES = ("didn't contain changes", "No updates are to be performed")
# What CloudFormation says of resources that failed only because another one did.
FOLLOWS = ("cancelled", "canceled")


class Failed(Exception):
    """What CloudFormation refused, or failed to do, with its reasons."""


def confirmed(question):
    """Asks once on the terminal. YES=1 is the answer in advance; without either, nothing is done."""
    if os.environ.get("YES") == "1":
        return True
    if not sys.stdin.isatty():
        sys.exit("nothing was changed: there is no terminal to ask on; with YES=1, nothing is asked")
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

    def current(self):
        """What the deployed stack has, or None where there is none, or only one whose creation nobody began."""
        try:
            [found] = self.client.describe_stacks(StackName=self.name)["Stacks"]
        except ClientError as error:
            if "does not exist" in error.response["Error"]["Message"]:
                return None
            raise
        if found["StackStatus"] in ("REVIEW_IN_PROGRESS", "DELETE_COMPLETE"):
            return None
        return {
            "id": found["StackId"],
            "status": found["StackStatus"],
            "created": found["CreationTime"].date(),
            "description": found.get("Description", ""),
            "parameters": {it["ParameterKey"]: it.get("ParameterValue", "") for it in found.get("Parameters", [])},
            "outputs": {it["OutputKey"]: it["OutputValue"] for it in found.get("Outputs", [])},
        }

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
        return f"{named}, and can only be deleted: run make destroy Region={self.region} StackName={self.name}, then try again"

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

    def delete(self):
        """Deletes the stack, and waits until it is gone. What has a policy to stay, stays."""
        current = self.current()
        if current is None:
            return
        try:
            self.client.delete_stack(StackName=current["id"])
            self.client.get_waiter("stack_delete_complete").wait(StackName=current["id"], WaiterConfig=WAIT)
        except ClientError as error:
            raise Failed(error.response["Error"]["Message"]) from error
        except WaiterError as error:
            raise Failed(self.reasons(current["id"])) from error

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

    def execute(self):
        """Executes it, and waits for the end."""
        waiter = self.stack.client.get_waiter(f"stack_{self.kind.lower()}_complete")
        try:
            self.stack.client.execute_change_set(ChangeSetName=self.id)
            waiter.wait(StackName=self.stack_id, WaiterConfig=WAIT)
        except ClientError as error:
            raise Failed(error.response["Error"]["Message"]) from error
        except WaiterError as error:
            raise Failed(self.stack.reasons(self.stack_id)) from error

    def discard(self):
        """Leaves nothing of it: for a stack that it would have created, not the empty stack either."""
        if self.kind == "CREATE":
            self.stack.client.delete_stack(StackName=self.stack_id)
        else:
            self.stack.client.delete_change_set(ChangeSetName=self.id)
