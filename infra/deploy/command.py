"""What make deploy and make destroy have in common: what was typed, where it goes to, and the table at the end.

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

RESERVED = ("Region", "Regions", "StackName", "YES", "PYTHON")
STACK_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,127}", re.ASCII)
DESCRIPTION = "imds-enforcer:"


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
    refuse(places.of_another_partition(regions, session, arn))
    return Target(session, regions, name, account, arn)


def refuse(refusals):
    """Ends the command if there is anything to refuse."""
    if refusals:
        sys.exit("\n".join([*refusals, "nothing was changed"]))


def foreign(current, name):
    """Why a stack is none of this project's, or nothing."""
    if current is None or current["description"].startswith(DESCRIPTION):
        return []
    return [f"{name} is a stack of something else (its description does not begin with {DESCRIPTION}): give another StackName"]


def table(rows):
    """Regions, outcomes and reasons, one below the other."""
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows)


def in_order(regions, outcome_of):
    """Goes through the Regions until one fails, shows what became of each, and ends the command."""
    rows = {region: (region, "not begun", "") for region in regions}
    for region in regions:
        rows[region] = (region, *outcome_of(region))
        if rows[region][1] == "failed":
            break
    print(table(list(rows.values())))
    return [region for region in regions if rows[region][1] in ("failed", "not begun")]
