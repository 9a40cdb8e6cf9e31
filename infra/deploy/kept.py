"""What was chosen for a stack, in a file that git ignores: one for each account, Region and stack.

Written after a deployment, so that a stack that was deleted can be deployed again as it was. Where
the stack is there, the stack is right. It never keeps the day since when to enforce: the stack has it,
and with an old day, the first sweep of a new stack would enforce what runs.
"""

import json
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[1] / "deployed"
DAY = "EnforceSince"


def path(account, region, stack):
    return ROOT / account / region / f"{stack}.json"


def read(account, region, stack):
    """The values that were kept, by name; none where no file is."""
    place = path(account, region, stack)
    if not place.exists():
        return {}
    try:
        values = json.loads(place.read_text())["parameters"]
        return {str(name): str(value) for name, value in values.items() if name != DAY}
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        sys.exit(f"{place} can't be read ({error!r}): mend it, or delete it, and give the values by name")


def elsewhere(account, regions, stack):
    """What was kept for a stack of this name in the account's other Regions, by Region."""
    places = sorted((ROOT / account).glob(f"*/{stack}.json"))
    return {place.parent.name: read(account, place.parent.name, stack) for place in places if place.parent.name not in regions}


def write(account, region, stack, values):
    """Writes them at once or not at all."""
    place = path(account, region, stack)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_suffix(".draft")
    lasting = {name: value for name, value in values.items() if name != DAY}
    draft.write_text(json.dumps({"parameters": lasting}, indent=2, sort_keys=True) + "\n")
    os.replace(draft, place)


def worth_keeping(template, values, named=()):
    """What differs from the template's defaults, and what somebody named."""
    stated = template["Parameters"]
    return {name: it for name, it in values.items() if name in stated and (name in named or str(stated[name].get("Default")) != it)}
