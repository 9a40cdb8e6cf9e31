"""Pastes the commands that a cause suggests into a shell, with the real AWS CLI, in accounts that differ
in what they launch today, and compares what is there afterwards with what was meant: all else is as it
was. Then puts faults into the commands, each of which must be found. Reads the commands by what the
instance belongs to, and prints how many comparisons agreed.

The account is a stand-in (`account.py`).
"""

import concurrent.futures
import copy
import json
import os
import pathlib
import subprocess
import sys

from account import Account

TEMPLATE, OTHER, GROUP = "lt-0abcdef1234567890", "lt-0fedcba9876543210", "web blue"
SNAPSHOT = {"DeviceName": "/dev/sdf", "Ebs": {"SnapshotId": "snap-1", "VolumeSize": 9, "Encrypted": True}}
OLD = {"ImageId": "ami-old"}
PLAIN = {"ImageId": "ami-1", "SecurityGroupIds": ["sg-1"], "UserData": "IyEvYmluL3No"}
FULL = {
    **PLAIN,
    "BlockDeviceMappings": [SNAPSHOT, {"DeviceName": "/dev/sdg", "NoDevice": ""}],
    "NetworkInterfaces": [{"DeviceIndex": 0, "Groups": ["sg-2"], "Ipv6Addresses": [{"Ipv6Address": "2001:db8::1"}]}],
    "MetadataOptions": {"HttpTokens": "optional", "HttpPutResponseHopLimit": 3, "InstanceMetadataTags": "enabled"},
    "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": 'b "c"'}]}],
}
SPECIFICATION = {"LaunchTemplateId": TEMPLATE, "Version": "12"}
MIXED = {
    "LaunchTemplate": {
        "LaunchTemplateSpecification": SPECIFICATION,
        "Overrides": [
            {"InstanceType": "m7g.large", "WeightedCapacity": "2", "LaunchTemplateSpecification": {"LaunchTemplateId": OTHER, "Version": "$Latest"}},
            {"InstanceType": "m6i.large"},
        ],
    },
    "InstancesDistribution": {"OnDemandBaseCapacity": 1, "SpotAllocationStrategy": "price-capacity-optimized"},
}


def requiring(data):
    """The data of a version with tokens required and nothing else changed."""
    return {**data, "MetadataOptions": {**data.get("MetadataOptions", {}), "HttpTokens": "required"}}


def account(latest=PLAIN, default=12, group=None, denied=frozenset()):
    """An account with a template at version 12, which the instance was launched from at version 3."""
    made = Account()
    versions = {3: OLD, 10: PLAIN, 12: latest}
    made.put_template(TEMPLATE, copy.deepcopy(versions), default)
    made.put_template(OTHER, {1: copy.deepcopy(OLD)}, 1)
    made.groups = {"other": {"LaunchTemplate": {"LaunchTemplateId": TEMPLATE, "Version": "12"}, "MinSize": 1}}
    if group is not None:
        made.groups[GROUP] = {"MinSize": 2, **copy.deepcopy(group)}
    made.defaults = {"HttpPutResponseHopLimit": 2}
    made.images = {"ami-1": {}, "ami-2": {}}
    made.denied = denied
    return made


def launching(version, template=TEMPLATE):
    return {"LaunchTemplate": {"LaunchTemplateId": template, "Version": version}}


def version_13(data=PLAIN, default=13, group=None):
    """What is meant: a version 13, and the default and the group as given."""

    def change(state):
        state["templates"][TEMPLATE]["versions"][13] = requiring(data)
        state["templates"][TEMPLATE]["default"] = default
        if group:
            state["groups"][GROUP]["LaunchTemplate"]["Version"] = group

    return change


def default_required(state):
    state["defaults"]["HttpTokens"] = "required"


def image_required(state):
    state["images"]["ami-1"]["ImdsSupport"] = "v2.0"


def nothing(state):
    """Nothing is to change."""


CLOSED = {**PLAIN, "MetadataOptions": {"HttpTokens": "optional", "HttpEndpoint": "disabled"}}
DONE = {**PLAIN, "MetadataOptions": {"HttpTokens": "required"}}
ON_12 = launching("12")

# By what the instance belongs to: why the account is special, what it is, and what is meant.
CASES = {
    "template": [
        ("an old instance does not roll the default back", {}, version_13()),
        ("snapshots and other options are kept", {"latest": FULL}, version_13(FULL)),
        ("a closed endpoint stays closed", {"latest": CLOSED}, version_13(CLOSED)),
        ("an older default stays the default", {"default": 10}, version_13(default=10)),
        ("what requires tokens already is left", {"latest": DONE}, nothing),
        ("what can't be described is left", {"denied": {"DescribeLaunchTemplateVersions"}}, nothing),
        ("what can't be created is no default", {"denied": {"CreateLaunchTemplateVersion"}}, nothing),
    ],
    "group": [
        ("one on the latest follows by itself", {"default": 3, "group": launching("$Latest")}, version_13(default=3)),
        ("one on the default follows by itself", {"group": launching("$Default")}, version_13()),
        ("one on the latest by number is updated", {"group": ON_12}, version_13(group="13")),
        ("so it is where another version is the default", {"default": 10, "group": ON_12}, version_13(default=10, group="13")),
        ("one on an older version is left", {"group": launching("10")}, version_13()),
        ("one on an older default is left", {"default": 10, "group": launching("$Default")}, version_13(default=10)),
        ("one on another template by now is left", {"group": launching("12", OTHER)}, version_13()),
        ("a mixed instances policy is kept", {"group": {"MixedInstancesPolicy": MIXED}}, version_13()),
        ("a launch configuration is kept", {"group": {"LaunchConfigurationName": "web"}}, version_13()),
        ("one that is gone is no group", {}, version_13()),
        ("none follows what can't be created", {"group": ON_12, "denied": {"CreateLaunchTemplateVersion"}}, nothing),
    ],
    "group without a template": [("it is shown and left", {"group": {"LaunchConfigurationName": "web"}}, nothing)],
    "defaults": [("other defaults are kept", {}, default_required)],
    "image": [("other images are kept", {}, image_required)],
}

# A second paste, as after a second message on the same group, changes nothing more.
TWICE = {"snapshots and other options are kept", "one on the latest by number is updated"}

# Faults that were in commands before, and the account that shows each.
FAULTS = [
    ("template", "an old instance does not roll the default back", "'$Latest'", "3"),
    ("template", "snapshots and other options are kept", ",BlockDeviceMappings:BlockDeviceMappings||`[]`", ""),
    ("template", "snapshots and other options are kept", "MetadataOptions||`{}`", "`{}`"),
    ("template", "an older default stays the default", '[ "$DEFAULT" = "$LATEST" ] &&', ""),
    ("template", "snapshots and other options are kept", """ | grep -v '"State"'""", ""),
    ("group", "a mixed instances policy is kept", '[ -n "$GROUP" ] &&', f"GROUP='{GROUP}';"),
    ("group", "one on an older version is left", " && LaunchTemplate.Version=='$LATEST'", ""),
]


# Two shells, both interactive: these go on after a line that failed, as the lines that a person pastes do.
SHELLS = [["bash", "--norc", "--noprofile", "-i"], ["sh", "-i"]]


def paste(shell, lines, endpoint):
    """Runs lines as a shell does that was used for another template before."""
    path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
    used_before = {"LATEST": "3", "DEFAULT": "3", "CHANGE": "{}", "CREATED": "3", "GROUP": "other"}
    aws = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    aws |= {"AWS_MAX_ATTEMPTS": "1", "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    environment = {"PATH": path, "HOME": os.devnull, "NO_PROXY": "127.0.0.1", **used_before, **aws}
    script = "\n".join(lines)
    return subprocess.run(shell, input=f"{script}\n", env=environment, capture_output=True, text=True, timeout=120, start_new_session=True)


def compare(lines, why, fields, change):
    """Why what is there after pasting is not what was meant, or nothing."""
    made = account(**fields)
    meant = made.state()
    change(meant)
    server = made.serve()
    try:
        for shell in SHELLS if why in TWICE else SHELLS[len(why) % 2 :][:1]:
            done = paste(shell, lines, f"http://127.0.0.1:{server.server_address[1]}")
            if made.state() != meant:
                found = json.dumps({"found": made.state(), "meant": meant}, indent=1)
                return f"{why}:\n{found}\n{done.stdout}\n{done.stderr}"
    finally:
        server.shutdown()
        server.server_close()
    return None


def unnoticed(lines, belongs_to, why, fault, in_its_place):
    """Why a fault that is put into the commands is not found, or nothing."""
    [(fields, change)] = [case[1:] for case in CASES[belongs_to] if case[0] == why]
    faulty = [line.replace(fault, in_its_place) for line in lines]
    if faulty != lines and compare(faulty, why, fields, change):
        return None
    return f"{why}: nothing changes by {in_its_place!r} in the place of {fault!r}"


def main():
    suggested = json.load(sys.stdin)
    assert suggested.keys() == CASES.keys(), suggested.keys()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(compare, suggested[key], *case) for key, cases in CASES.items() for case in cases]
        jobs += [pool.submit(unnoticed, suggested[fault[0]], *fault) for fault in FAULTS]
        wrong = [why for job in jobs if (why := job.result())]
    if wrong:
        sys.exit("\n".join(wrong))
    print(len(jobs))


if __name__ == "__main__":
    main()
