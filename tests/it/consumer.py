"""A consumer of results, as a security team would write one: reads the entries that a bus was sent,
a JSON array on standard input, and prints how many of each detail-type it took.

It takes an event by the schema of its version, refuses a version that it has no schema of, and drops
what it has taken before, by its id.
"""

import collections
import json
import pathlib
import sys

from jsonschema import Draft202012Validator

SCHEMAS = pathlib.Path(__file__).parents[2] / "events/schema"
# Which outcomes a result of an instance may have.
ANY = None
DETAIL_TYPES = {
    "IMDS Tokens Required": {"enforced"},
    "IMDS Tokens Would Be Required": {"would_enforce"},
    "IMDS Instance Created Before": {"created_before"},
    "IMDS Exemption Used": {"exempt"},
    "IMDS Instance In Use": {"in_use"},
    "IMDS Instance Managed": {"managed"},
    "IMDS Enforcement Failed": {"failed"},
    "IMDS Launch Attributed": {"compliant", "gone"},
    "IMDS Calls Refused": ANY,
    "IMDS Sweep Digest": ANY,
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
    kind = event["DetailType"]
    if event["Source"] != "imds-enforcer" or kind not in DETAIL_TYPES:
        return f"no result: {event['Source']}, {kind}"
    detail = json.loads(event["Detail"])
    if detail.get("schema_version") not in known:
        return f"schema_version {detail.get('schema_version')!r} is not known; known: {', '.join(known)}"
    if ("counts" in detail) != (kind == "IMDS Sweep Digest"):
        return f"{kind} has the fields of another result"
    if ("refused_calls" not in detail) and kind == "IMDS Calls Refused":
        return f"{kind} does not say which"
    if DETAIL_TYPES[kind] is not ANY and detail["outcome"] not in DETAIL_TYPES[kind]:
        return f"{kind} is the result of an instance that is {detail['outcome']}"
    wrong = next(known[detail["schema_version"]].iter_errors(detail), None)
    return wrong and f"{wrong.json_path}: {wrong.message}"


def main():
    known, taken, ids = validators(), collections.Counter(), set()
    for event in json.load(sys.stdin):
        if why := refusal(event, known):
            sys.exit(f"refused: {why}")
        result_id = json.loads(event["Detail"])["result_id"]
        taken["dropped" if result_id in ids else event["DetailType"]] += 1
        if result_id is not None:
            ids.add(result_id)
    print(json.dumps(taken))


if __name__ == "__main__":
    main()
