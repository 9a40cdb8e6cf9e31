"""Holds every command that results suggest to AWS's own models of its APIs, as botocore has them:
reads the entries that a bus was sent, and prints how often each action was found. What they do is held
to what was meant in `mended.py`.
"""

import collections
import json
import re
import shlex
import sys

import botocore.session
from botocore import xform_name

GLOBAL = {"--region", "--query", "--output"}
SESSION = botocore.session.get_session()


def kebab(name):
    return "--" + xform_name(name, "-")


def command(line):
    """The command that a line of the shell runs: kept in a variable, or under a condition, or plain."""
    line = re.sub(r"^[A-Z]+=\$\((.*)\)$", r"\1", line)
    return re.sub(r"^\[ [^]]* \] && ", "", line.split(" | grep -v ")[0])


def check_value(shape, value, where):
    """A text, or the shorthand of a structure or of a list of structures; not what a variable holds."""
    if value.startswith("$"):
        return None
    if shape.type_name == "list":
        return check_value(shape.member, value, where)
    if shape.type_name != "structure":
        known = getattr(shape, "enum", None)
        assert not known or value in known, f"{where}: {value} is none of {known}"
        return None
    if nested := re.fullmatch(r"(\w+)=\{(.*)\}", value):
        assert nested[1] in shape.members, f"{where}: no {nested[1]}"
        return check_value(shape.members[nested[1]], nested[2], where)
    for pair in value.split(","):
        key, _, inner = pair.partition("=")
        assert key in shape.members, f"{where}: no {key} in {sorted(shape.members)}"
        check_value(shape.members[key], inner, where)
    return None


def check(line):
    aws, service, action, *words = shlex.split(line)
    assert aws == "aws" and len(words) % 2 == 0, line
    model = SESSION.get_service_model(service)
    operations = {kebab(name)[2:]: name for name in model.operation_names}
    assert action in operations, f"{service} has no {action}"
    shape = model.operation_model(operations[action]).input_shape
    members = {kebab(name): member for name, member in shape.members.items()}
    given = dict(zip(words[::2], words[1::2]))
    for option, value in given.items():
        if option not in GLOBAL:
            assert option in members, f"{service} {action} has no {option}"
            check_value(members[option], value, f"{service} {action} {option}")
    for name in shape.required_members:
        assert kebab(name) in given, f"{service} {action} lacks {kebab(name)}"
    return f"{service} {action}"


def main():
    found = collections.Counter()
    for event in json.load(sys.stdin):
        detail = json.loads(event["Detail"])
        undo = detail["undo"].split(" && ") if "undo" in detail else []
        lines = [*detail.get("cause", {}).get("commands", []), *undo]
        found.update(check(command(line)) for line in lines)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
