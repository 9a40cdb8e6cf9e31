"""Reads what was given for a template's parameters, and says what the template would refuse.

Pure: it knows the words of make's command line and the text of a template, calls nobody, reads no
environment and guesses no value.
"""

import difflib
import re
from datetime import date

from resolver import Resolver

NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
# Their patterns can't tell leap years.
DAYS = {"EnforceSince"}


class Unreadable(Exception):
    """Words that are no NAME=VALUE."""


def of_make(makeflags):
    """The NAME=VALUE words of make's command line, from what make hands down as MAKEFLAGS.

    make puts a backslash before blanks and backslashes, doubles each `$`, hands down the last word
    first, and has nothing of the environment there. The values that it exports are expanded: there,
    `$` is lost.
    """
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|\S)+", makeflags)]
    given = words[words.index("--") + 1 :] if "--" in words else []
    return [word.replace("$$", "$") for word in reversed(given)]


def given(words):
    """Names and values from NAME=VALUE words; a later word wins."""
    wrong = [word for word in words if not re.match(r"[^=]+=", word)]
    if wrong:
        raise Unreadable(f"{', '.join(wrong)}: write NAME=VALUE, as in Mode=observe")
    pairs = (word.split("=", 1) for word in words)
    return {name.rstrip(":"): value for name, value in pairs}


def refusals(template, values, kept=(), reserved=()):
    """What the template would refuse of these values, each with what is allowed.

    `kept` are the names that have a value elsewhere, as in the stack: they are not missing, and a
    rule about one of them is left for when all values are known. `reserved` are names beside the
    parameters, which are only offered to whoever mistypes one.
    """
    stated = template.get("Parameters", {})
    unknown = [unknown_name(name, [*stated, *reserved]) for name in values if name not in stated]
    refused = [f'{name} is "{values[name]}"; it {wanted}' for name in stated if name in values and (wanted := unmet(name, stated[name], values[name]))]
    there = {*values, *kept}
    missing = [f"{name} is missing; it {allowed(it)}" for name, it in stated.items() if "Default" not in it and name not in there]
    found = unknown + refused + missing
    return found or broken_rules(template, values, set(kept) - set(values))


def unknown_name(name, known):
    folded = {it.lower(): it for it in known}
    close = difflib.get_close_matches(name.lower(), folded, n=1)
    hint = f"did you mean {folded[close[0]]}?" if close else f"there are {', '.join(sorted(known))}"
    return f"{name} is unknown; {hint}"


def unmet(name, stated, value):
    """What a value must be and is not, or None."""
    if name in DAYS and (wrong := no_day(value)):
        return wrong
    return None if all(fits(stated, item) for item in items(stated, value)) else allowed(stated)


def no_day(value):
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        return None
    try:
        date.fromisoformat(value)
    except ValueError:
        return "must be a day that there is, such as 2026-11-02"
    return None


def items(stated, value):
    """The values that a constraint is about: those of a list are judged one by one."""
    is_list = stated["Type"] == "CommaDelimitedList" or stated["Type"].startswith("List<")
    return [item.strip() for item in value.split(",")] if is_list else [value]


def fits(stated, value):
    if "AllowedValues" in stated and value not in map(str, stated["AllowedValues"]):
        return False
    # As CloudFormation's, a pattern is about the whole value, and \d about ASCII's digits.
    if "AllowedPattern" in stated and not re.fullmatch(stated["AllowedPattern"], value, re.ASCII):
        return False
    if not int(stated.get("MinLength", 0)) <= len(value) <= int(stated.get("MaxLength", 4096)):
        return False
    if "Number" not in stated["Type"]:
        return True
    return bool(NUMBER.fullmatch(value)) and float(stated.get("MinValue", "-inf")) <= float(value) <= float(stated.get("MaxValue", "inf"))


def allowed(stated):
    """What a parameter must be, in words."""
    if "ConstraintDescription" in stated:
        return stated["ConstraintDescription"]
    if "AllowedValues" in stated:
        return f"must be one of {', '.join(map(str, stated['AllowedValues']))}"
    if "Number" in stated["Type"]:
        return f"must be a number{bounds(stated, 'MinValue', 'MaxValue')}"
    if "AllowedPattern" in stated:
        return f"must match {stated['AllowedPattern']}"
    return f"must be a text{bounds(stated, 'MinLength', 'MaxLength', ' of', ' characters')}"


def bounds(stated, least, most, before=" from", after=""):
    if least in stated and most in stated:
        return f"{before} {stated[least]} to {stated[most]}{after}"
    if least in stated:
        return f"{before} at least {stated[least]}{after}".replace(" from at", " of at")
    return f"{before} at most {stated[most]}{after}".replace(" from at", " of at") if most in stated else ""


class Rules(Resolver):
    """The functions that only rules have."""

    def fn_contains(self, argument):
        members, value = map(self.resolve, argument)
        return str(value) in map(str, members)

    def fn_eachmemberin(self, argument):
        some, all_of_them = map(self.resolve, argument)
        return set(map(str, some)) <= set(map(str, all_of_them))


def broken_rules(template, values, unsettled):
    """The template's assertions that values and defaults break, but those about what is unsettled."""
    rules = template.get("Rules", {})
    if not rules:
        return []
    placeholders = dict.fromkeys(unsettled, "")
    resolver = Rules(template, {**placeholders, **values})
    found = []
    for rule in rules.values():
        names = references(rule)
        if names & unsettled or not resolver.resolve(rule.get("RuleCondition", True)):
            continue
        said = " and ".join(f'{name} is "{resolver.values[name]}"' for name in sorted(names))
        found += [f"{said}; {it['AssertDescription']}" for it in rule["Assertions"] if not resolver.resolve(it["Assert"])]
    return found


def references(node):
    """The parameters that a rule names."""
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    own = {node["Ref"]} if isinstance(node.get("Ref"), str) else set()
    return own.union(*map(references, node.values()))
