"""A consumer of results, as a security team would write one: reads the entries that a bus was sent,
a JSON array on standard input, and prints how many of each detail-type it took.

It takes an event by the schema of its version, and refuses a version that it has no schema of.
"""

import collections
import json
import pathlib
import sys

from jsonschema import Draft202012Validator

SCHEMAS = pathlib.Path(__file__).parents[2] / "events/schema"
DETAIL_TYPES = {
    "IMDS Tokens Required": "enforced",
    "IMDS Tokens Would Be Required": "would_enforce",
    "IMDS Exemption Used": "exempt",
    "IMDS Instance In Use": "in_use",
    "IMDS Enforcement Failed": "failed",
}


def validators():
    """By version, the schema that events are held to, dates and times included."""
    found = {}
    for path in SCHEMAS.glob("result-*.json"):
        schema = json.loads(path.read_text())
        Draft202012Validator.check_schema(schema)
        version = path.stem.removeprefix("result-")
        found[version] = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    return found


def refusal(event, known):
    """Why an event is not taken, or nothing."""
    if event["Source"] != "imds-enforcer" or event["DetailType"] not in DETAIL_TYPES:
        return f"no result: {event['Source']}, {event['DetailType']}"
    detail = json.loads(event["Detail"])
    if detail.get("schema_version") not in known:
        return f"schema_version {detail.get('schema_version')!r} is not known; known: {', '.join(known)}"
    if detail["outcome"] != DETAIL_TYPES[event["DetailType"]]:
        return f"{event['DetailType']} is the result of an instance that is {detail['outcome']}"
    wrong = next(known[detail["schema_version"]].iter_errors(detail), None)
    return wrong and f"{wrong.json_path}: {wrong.message}"


def main():
    known, taken = validators(), collections.Counter()
    for event in json.load(sys.stdin):
        if why := refusal(event, known):
            sys.exit(f"refused: {why}")
        taken[event["DetailType"]] += 1
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
