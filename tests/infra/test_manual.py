"""The manual's own commands, in its order, as a new user runs them: one Region, more, a change, an update, a removal.

They are taken from the manual. Added are an endpoint, keys, and the answers that a person types;
cargo hands over a binary that was built before. What is left out of the section is said here.
"""

import re
import shutil

import pytest
from conftest import elf
from template import ROOT
from test_deploy import Person
from test_package import Tree

SECTION = "One account, one Region or several"
ACCOUNT = "333300000001"


def commands(section):
    """The commands of a section of the manual, each fenced block as it stands."""
    text = (ROOT / "infra/README.md").read_text().split(f"## {section}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def person(aws, tmp_path):
    return Person(aws, Tree(tmp_path / "clone"), ACCOUNT)


def test_the_manual_leads_from_a_first_deployment_to_a_removal(person):
    first, more, change, update, removal, by_hand = commands(SECTION)

    output = person.typed(first)
    assert output.count("[y/N]") == 1
    assert person.values("us-east-1")["Mode"] == "observe" and person.values("eu-central-1") is None
    day = person.values("us-east-1")["EnforceSince"]

    output = person.typed(more)
    assert output.count("[y/N]") == 1
    for region in ("eu-central-1", "eu-west-1"):
        assert (person.values(region)["Mode"], person.values(region)["AlarmEmail"]) == ("observe", "security@example.com")

    person.typed(change)
    schedules = [person.values(region)["SweepSchedule"] for region in ("us-east-1", "eu-central-1", "eu-west-1")]
    assert schedules == ["rate(2 hours)", "rate(2 hours)", "rate(1 hour)"]

    # Another version: in the emulator, another binary.
    output = person.typed(update, more_code=b"of a new version")
    assert output.count("[y/N]") == 1 and output.count("Modify   Function ") == 3, output
    values = person.values("us-east-1")
    assert (values["Mode"], values["SweepSchedule"], values["EnforceSince"]) == ("observe", "rate(2 hours)", day)
    assert [line.split() for line in output.splitlines()[-3:]] == [[it, "deployed"] for it in ("us-east-1", "eu-central-1", "eu-west-1")]
    assert person.typed(update, more_code=b"of a new version").count("unchanged") == 3

    person.typed(by_hand.replace("Mode=observe", "Mode=enforce"), folder="infra", more_code=b"of a new version")
    assert person.values("us-east-1")["Mode"] == "enforce" and person.values("us-east-1")["EnforceSince"] == day

    person.typed(removal)
    assert [person.values(region) for region in ("us-east-1", "eu-central-1", "eu-west-1")] == [None, None, None]
    assert person.kept("us-east-1") == {"AlarmEmail": "security@example.com", "Mode": "enforce", "SweepSchedule": "rate(2 hours)"}


def test_the_first_deployment_of_the_readme_works_as_it_is_written(aws, tmp_path):
    person = Person(aws, Tree(tmp_path / "clone"), "333300000002")
    text = (ROOT / "README.md").read_text().split("\n## Deploy\n", 1)[1]
    profile, command = re.search(r"^```\n(export AWS_PROFILE=\S+) (AWS_REGION=.*?\n.*?)^```", text, re.MULTILINE | re.DOTALL).groups()
    assert profile == "export AWS_PROFILE=security"  # which this test does without
    assert "make deploy AlarmEmail=security@example.com Mode=observe" in command
    person.typed(f"export {command}")
    assert person.values("eu-central-1")["Mode"] == "observe"


# A stand-in: the packages that were installed before, in place of `npm ci`.
NPM = f"""#!/bin/sh
[ "$1 $2" = "ci " ] && ln -s "{ROOT}/infra/node_modules" node_modules
"""


def test_the_manual_leads_to_a_stack_of_the_cdk_and_its_removal(aws, tmp_path):
    tree = Tree(tmp_path / "clone")
    for folder in ("infra/cdk", "src"):
        shutil.copytree(ROOT / folder, tree.root / folder, ignore=shutil.ignore_patterns("cdk.out"))
    tree.command("npm", NPM)
    account = "333300000003"
    environment = {"AWS_ENDPOINT_URL": aws.endpoint, "AWS_ACCESS_KEY_ID": account, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    [deploy] = commands("With CDK")[:1]
    # Its questions are for a terminal.
    agreed = deploy.replace("cdk deploy", "cdk deploy --require-approval never") + "npx cdk destroy --force\n"
    status, output = tree.run("bash", "-euc", agreed, binary=elf("x86_64"), **environment)
    assert status == 0, output
    assert "imds-enforcer-cdk: creating" in output and "imds-enforcer-cdk: destroyed" in output, output
