"""The partition of a Region, and the DNS suffix that its addresses end in, as botocore has them. It asks no service."""

import botocore.session
from botocore.exceptions import UnknownRegionError

_session = botocore.session.get_session()


def partition(region):
    """`aws`, `aws-cn`, `aws-us-gov`, …; a Region that nobody knows yet counts to `aws`, as botocore guesses its endpoints."""
    try:
        return _session.get_partition_for_region(region)
    except UnknownRegionError:
        return "aws"


def dns_suffix(region):
    [outputs] = [it["outputs"] for it in _session.get_component("data_loader").load_data("partitions")["partitions"] if it["id"] == partition(region)]
    return outputs["dnsSuffix"]
