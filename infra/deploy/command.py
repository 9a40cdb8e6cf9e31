"""What the commands of make have in common: what was typed, where it goes to, the question, and the table at the end.

It asks AWS for the caller alone, and changes nothing.
"""

import os
import re
import sys
from dataclasses import dataclass

import account as accounts
import boto3
import parameters
import regions as places
from botocore.exceptions import BotoCoreError, ClientError
from stack import MARKS, confirmed

RESERVED = ("Region", "Regions", "StackName", "YES", "PYTHON")
REPLACEMENTS = {"True": " (replaced)", "Conditional": " (perhaps replaced)"}
STACK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}", re.ASCII)


@dataclass
class Target:
    """Where a command goes to, and as whom."""

    session: boto3.Session
    regions: list[str]
    stack_name: str
    account: str
    arn: str

    def __str__(self):
        return f"account {self.account}, {'Region' if len(self.regions) == 1 else 'Regions'} {', '.join(self.regions)}, as {self.arn}"


def run(main):
    """Runs a command; what AWS refuses meanwhile, as for a missing permission, is said in its words."""
    try:
        main()
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"AWS refuses or does not answer: {error}; what was begun in other Regions stays, and the same command goes on")
    except KeyboardInterrupt:
        sys.exit("\nbroken off: what CloudFormation has begun goes on there; the same command shows where it stands")


def typed():
    """What was typed for make: for the command itself, and for parameters."""
    try:
        given = parameters.given(parameters.of_make(os.environ.get("MAKEFLAGS", "")) + sys.argv[1:])
    except parameters.Unreadable as error:
        sys.exit(str(error))
    own = {name: value for name, value in given.items() if name in RESERVED or name.startswith("AWS_")}
    return own, {name: value for name, value in given.items() if name not in own}


def target(own, refusals):
    """The target, or all that is wrong with what was typed, before anything is called."""
    session = boto3.Session()
    regions, wrong = places.given(own, session)
    name = own.get("StackName") or "imds-enforcer"
    if not STACK_NAME.fullmatch(name):
        wrong.append(f'StackName is "{name}"; it must be letters, digits and -, begin with a letter, and have at most 128 characters')
    refuse([*refusals, *wrong])
    account, arn = accounts.caller(session, regions[0])
    refuse(places.of_another_partition(regions, arn))
    return Target(session, regions, name, account, arn)


def refuse(refusals):
    """Ends the command if there is anything to refuse."""
    if refusals:
        sys.exit("\n".join([*refusals, "nothing was changed"]))


def against(stack, current, marks=MARKS):
    """What stands against a change of a stack. One that is being deleted has lost what it is known by."""
    obstacle = stack.obstacle(current)
    if obstacle and current["status"].endswith("_IN_PROGRESS"):
        return [obstacle]
    return foreign(current, stack.name, marks) or ([obstacle] if obstacle else [])


def foreign(current, name, marks=MARKS):
    """Why a stack is none that this command made, or nothing. `marks` are parameters that every build of it has had."""
    if name.startswith("StackSet-"):
        return [f"{name} is of a stack set, which alone may change it: run make organization in the account that has it"]
    if current is None or current["parameters"].keys() >= marks:
        return []
    return [f"{name} is a stack of something else, since it has no parameters {' and '.join(sorted(marks))}: give another StackName"]


def architecture_of_package(values):
    """What make package alone reads, and who sets it for that may expect to hold here too."""
    old = os.environ.get("ARCHITECTURE")
    if not old or {"Architecture", "ARCHITECTURE"} & values.keys():
        return []
    return [f"ARCHITECTURE={old} is for make package; give Architecture={old} here"]


def becomes(current):
    """What a deployment makes of a stack."""
    return f"updates the stack of {current['created']}" if current else "first deployment"


def show(change):
    """Prints each resource that would change."""
    for action, logical_id, kind, replacement in change.rows() if change else []:
        print(f"  {action:<8} {logical_id:<24} {kind}{REPLACEMENTS.get(replacement, '')}")
    if not change:
        print("  nothing to change")


def agreed(change):
    """Shows what would change and asks whether to do it. Without a change there is no question, and without a yes it ends."""
    show(change)
    if change is None:
        return False
    answer = False
    try:
        answer = confirmed(f"\nDeploy {change.stack.name} to {change.stack.region}?")
    finally:
        if not answer:
            change.discard()
    return answer or sys.exit("nothing was deployed")


def table(rows):
    """Regions, outcomes and reasons, one below the other."""
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows)


def in_order(regions, outcome_of):
    """Goes through the Regions until one fails, shows what became of each, and answers those that are left."""
    rows = {region: (region, "not begun", "") for region in regions}
    for region in regions:
        rows[region] = (region, *outcome_of(region))
        if rows[region][1] == "failed":
            break
    print(table(list(rows.values())))
    return [region for region in regions if rows[region][1] in ("failed", "not begun")]
