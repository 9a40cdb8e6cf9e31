"""Which values a deployment of a stack has, where each comes from, and what is to be said of it.

Pure. What is given by name comes first, then what the stack has, then, where no stack is there, what
was kept of an earlier one, then the template's default. A first deployment enforces since today.
"""

from dataclasses import dataclass, field

import parameters

# What decides whether instances are changed, and who hears of it: always shown.
ALWAYS = ("Mode", "EnforceSince", "AlarmEmail")
# What the plain template has beside, which Terraform deploys.
OF_TERRAFORM = {"CodeBucket", "CodeKey"}
TERRAFORMS = "the stack is Terraform's, or of whoever deployed target/cloudformation.json, since it has CodeBucket and CodeKey: change it there"
EARLIER_BUILD = (
    "the stack is of an earlier build, which enforced every instance: give EnforceSince=all to go on so,"
    " or a day, such as EnforceSince={today}, before which nothing is enforced that nobody loosens"
)


@dataclass
class Choice:
    """The values that are sent, all values that the stack will have, and lines about them."""

    sent: dict[str, str]
    values: dict[str, str]
    lines: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def choose(template, given, stack, kept, today):
    """`stack` has the deployed stack's values, or is None for a first deployment."""
    return update(template, given, stack, kept, today) if stack is not None else first(template, given, kept, today)


def first(template, given, kept, today):
    stated = template["Parameters"]
    known = {name: value for name, value in kept.items() if name in stated}
    sent = {"EnforceSince": today, **known, **given} if "EnforceSince" in stated else {**known, **given}
    values = {name: str(stated[name].get("Default", "")) for name in ALWAYS if name in stated} | sent
    lines = [f"{name}: {shown(value)}, {origin(name, sent, given, known)}" for name, value in values.items()]
    lines += [f"{name}={kept[name]} was kept, and is no parameter any more: dropped" for name in kept.keys() - stated.keys()]
    return judged(template, Choice(sent, sent, lines))


def origin(name, sent, given, kept):
    if name in given:
        return "given"
    if name not in sent:
        return "by default"
    return "as it was kept" if name in kept else "today in UTC: what was created before stays as it is, unless somebody loosens it"


def update(template, given, stack, kept, today):
    stated = template["Parameters"]
    if stack.keys() >= OF_TERRAFORM:
        return Choice({}, {}, refusals=[TERRAFORMS])
    if "EnforceSince" in stated and "EnforceSince" not in {**stack, **given}:
        return Choice({}, {}, refusals=[EARLIER_BUILD.format(today=today)])
    values = {**{name: value for name, value in stack.items() if name in stated}, **given}
    lines = [f"{name}: {shown(stack.get(name))} → {shown(value)}, given" for name, value in given.items() if stack.get(name) != value]
    lines += [f"{name}: {shown(values[name])}, of the stack" for name in ALWAYS if name in stack and stack[name] == values.get(name)]
    new = [name for name in stated if name not in values]
    lines += [f"{name}: new, with its default {shown(str(stated[name].get('Default')))}" for name in new]
    lines += [f"{name}={value} of the stack is no parameter any more: dropped" for name, value in stack.items() if name not in stated]
    differ = [name for name, value in kept.items() if name in stack and name not in given and stack[name] != value]
    lines += [f"{name}: {shown(stack[name])} stays, which the stack has; {shown(kept[name])} was kept here" for name in differ]
    return judged(template, Choice(given, values, lines))


def unstated(template, choice, observing):
    """Why a first deployment must be told its mode: nobody said it, and Regions where the account only observes would lead one to expect the same."""
    default = template["Parameters"]["Mode"]["Default"]
    if not observing or "Mode" in choice.values or default == "observe":
        return []
    return [f"Mode is not given, and would be {default} by default, while it only observes in {', '.join(observing)}: give Mode=observe or Mode={default}"]


def shown(value):
    return {None: "nothing", "": "empty"}.get(value, value)


def judged(template, choice):
    choice.refusals = parameters.refusals(template, choice.values)
    return choice


def architecture(template, choice):
    return choice.values.get("Architecture", template["Parameters"]["Architecture"]["Default"])
