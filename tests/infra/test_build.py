"""The code that is deployed is the zip of `make package`, and commands that need no code build none."""

import base64
import hashlib
import os
import subprocess
import sys

import pytest
from conftest import run
from template import ROOT

PACKAGE = ROOT / "target/imds-enforcer.zip"
CDK = ["npx", "--no-install", "cdk"]


def sha256(path):
    return hashlib.sha256(path.read_bytes())


def test_the_package_the_build_of_sam_and_the_asset_of_the_cdk_are_one_zip(aws, stack, tmp_path):
    command = [sys.executable, ROOT / "infra/deploy/package.py", ROOT / "target/lambda/imds-enforcer", tmp_path / "anew.zip", "x86_64"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip().endswith(f"SHA-256 {sha256(PACKAGE).hexdigest()}")
    function = aws("lambda").get_function_configuration(FunctionName=stack["FunctionName"])
    assert function["CodeSha256"] == base64.b64encode(sha256(PACKAGE).digest()).decode()


@pytest.fixture
def without_cargo(aws, tmp_path):
    """Variables for a command of the CDK, in a Region without the stack, that fails where it builds."""
    cargo = tmp_path / "cargo"
    cargo.write_text("#!/bin/sh\nexit 1\n")
    cargo.chmod(0o755)
    region = "eu-central-1"
    return {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "AWS_ENDPOINT_URL": aws.endpoint, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}


@pytest.mark.parametrize("command", [["ls"], ["destroy", "--force"]], ids=" ".join)
def test_the_cdk_builds_nothing_for_a_command_that_needs_no_code(without_cargo, command):
    run([*CDK, *command], "infra/cdk", **without_cargo)


def test_the_cdk_builds_the_package_for_a_command_that_needs_the_code(without_cargo):
    with pytest.raises(AssertionError, match="make package"):
        run([*CDK, "synth", "--quiet", "-c", "enforceSince=all"], "infra/cdk", **without_cargo)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("Mode=observe", "context Mode is unknown; did you mean mode?"),
        ("graceDays=abc", 'context graceDays is "abc"; it must be a whole number from 0 to 90'),
        ("mode=enforce", "context enforceSince is missing; it must be all, or a day that there is, such as 2026-11-02"),
    ],
    ids=["unknown", "malformed", "missing"],
)
def test_the_cdk_refuses_a_wrong_context(without_cargo, context, message):
    with pytest.raises(AssertionError) as refusal:
        run([*CDK, "synth", "--quiet", "-c", context], "infra/cdk", **without_cargo)
    assert message in str(refusal.value)
