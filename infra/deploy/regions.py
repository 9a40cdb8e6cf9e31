"""Which Regions a command goes to: those that were given, or else that of the environment.

It knows the names of Regions as botocore has them, and calls nobody.
"""

import difflib

import account
from partition import partition


def given(values, session):
    """The Regions of `Region` or `Regions`, each once, or else of the environment; and what is wrong with them."""
    if values.get("Region") and values.get("Regions"):
        return [], ["Region and Regions are both given; give one of them"]
    words = (values.get("Regions") or values.get("Region") or account.region_of(session) or "").split(",")
    names = list(dict.fromkeys(word.strip() for word in words if word.strip()))
    if not names:
        return [], [account.NO_REGION]
    return names, unknown(names, session)


def unknown(names, session):
    """What is no Region of EC2, with the nearest that is."""
    known = {name for it in session.get_available_partitions() for name in session.get_available_regions("ec2", it)}
    return [f"{name} is no Region that botocore knows{nearest(name, known)}" for name in names if name not in known]


def nearest(name, known):
    close = difflib.get_close_matches(name.lower().replace("_", "-"), sorted(known), n=1)
    return f"; did you mean {close[0]}?" if close else ", as us-east-1 is one"


def of_another_partition(names, arn):
    """The Regions that the caller's credentials are not for, as China's with an account of another partition."""
    own = arn.split(":")[1]
    others = [(name, partition(name)) for name in names]
    return [f"{name} is in partition {it}, and these credentials are for {own}" for name, it in others if it != own]
