"""The SAM template of a deployment, resolved, and what its policies state."""

import pathlib

import sam
from resolver import Resolver

ROOT = pathlib.Path(__file__).resolve().parents[2]


def resources(template=None, **parameters):
    """The resources that a deployment with these parameters has, by logical id."""
    return Resolver(sam.transformed(template), parameters).resources()


def statements(resource):
    """Every policy statement of a role or a resource policy."""
    properties = resource["Properties"]
    documents = [policy["PolicyDocument"] for policy in properties.get("Policies", [])]
    documents += [properties[key] for key in ("PolicyDocument",) if key in properties]
    return [statement for document in documents for statement in document["Statement"]]


def listed(value):
    """A list, where a single item may stand for one."""
    return value if isinstance(value, list) else [value]
