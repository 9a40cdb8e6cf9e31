"""What `make` builds and refuses, with a cargo that compiles nothing, in a folder whose name has a space."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import zipfile
from datetime import UTC, datetime, timedelta

import package
import pytest
from conftest import BIN, KEYS, NO_FILES, elf
from samcli.yamlhelper import yaml_parse
from template import ROOT

# Writes down its arguments, and copies the file BINARY to where cargo lambda would put the binary.
CARGO = """#!/bin/sh
echo "$@" >> "$RECORD"
for argument; do
    [ "$previous" = --lambda-dir ] && folder=$argument/imds-enforcer
    previous=$argument
done
[ -z "$BINARY" ] || { mkdir -p "$folder" && cp "$BINARY" "$folder/bootstrap"; }
"""


class Tree:
    """A copy of what packages and deploys."""

    def __init__(self, root):
        self.root, self.record = root, root / "record"
        infra = [path for folder in ("infra", "infra/deploy") for path in (ROOT / folder).iterdir() if path.is_file()]
        for path in [ROOT / "Makefile", ROOT / "tests/requirements.txt", *infra]:
            copy = root / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
        (root / ".venv").symlink_to(BIN.parent)
        self.command("cargo", CARGO)

    def command(self, name, text):
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def run(self, *command, folder=".", umask=0o022, binary=None, answers="", **variables):
        built = self.root / "built"
        if binary is not None:
            built.write_bytes(binary)
        environment = {name: value for name, value in os.environ.items() if name not in ("ARCHITECTURE", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        environment |= KEYS | NO_FILES | {"RECORD": str(self.record), "BINARY": "" if binary is None else str(built), **variables}
        environment["PATH"] = f"{self.root / 'bin'}{os.pathsep}{environment['PATH']}"
        done = subprocess.run(command, cwd=self.root / folder, env=environment, umask=umask, input=answers, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def recorded(self):
        return self.record.read_text().splitlines() if self.record.exists() else []


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path / "a folder")


@pytest.mark.parametrize(
    ("given", "architecture", "target"),
    [([], "x86_64", "x86_64-unknown-linux-gnu.2.26"), (["ARCHITECTURE=arm64"], "arm64", "aarch64-unknown-linux-gnu.2.26")],
    ids=["default", "arm64"],
)
def test_a_package_is_built_for_its_architecture_and_its_template_allows_no_other(tree, given, architecture, target):
    status, output = tree.run("make", "package", *given, binary=elf(architecture), CARGO_TARGET_DIR=str(tree.root / "elsewhere"))
    assert status == 0, output
    [arguments] = tree.recorded()
    assert arguments == f"lambda build --release --locked --target {target} --lambda-dir target/lambda --bin imds-enforcer"
    zipped = (tree.root / "target/imds-enforcer.zip").read_bytes()
    assert zipped == package.pack(elf(architecture))
    assert f"for {architecture}, SHA-256 {hashlib.sha256(zipped).hexdigest()}" in output

    status, output = tree.run(str(BIN / "sam"), "build", folder="infra", AWS_DEFAULT_REGION="us-east-1", SAM_CLI_TELEMETRY="0")
    assert status == 0, output
    built = tree.root / "infra/.aws-sam/build/template.yaml"
    template = yaml_parse(built.read_text())
    assert (built.parent / template["Resources"]["Function"]["Properties"]["CodeUri"]).read_bytes() == zipped
    assert template["Parameters"]["Architecture"]["AllowedValues"] == [architecture]
    assert "Default" not in template["Parameters"]["EnforceSince"]


def test_a_binary_for_another_architecture_is_not_packed(tree):
    status, output = tree.run("make", "package", "ARCHITECTURE=arm64", binary=elf("x86_64"))
    assert status and "target/lambda/imds-enforcer/bootstrap is for x86_64, not for arm64: build with ARCHITECTURE=arm64" in output
    assert not list((tree.root / "target").glob("*.*"))


def test_what_is_no_binary_is_not_packed(tree):
    status, output = tree.run("make", "package", binary=b"#!/bin/sh\nexit 1\n")
    assert status and "bootstrap is no ELF binary for x86_64 or arm64" in output


def test_a_build_that_leaves_no_binary_fails(tree):
    status, output = tree.run("make", "package")
    assert status and "target/lambda/imds-enforcer/bootstrap is missing: cargo lambda build writes it" in output


def test_the_zip_does_not_depend_on_modes_or_other_files(tree):
    beside = tree.root / "target/lambda/imds-enforcer/notes.txt"
    beside.parent.mkdir(parents=True)
    beside.write_text("not for Lambda")
    zips = []
    for umask in (0o022, 0o077):
        (beside.parent / "bootstrap").unlink(missing_ok=True)
        status, output = tree.run("make", "package", umask=umask, binary=elf("x86_64"))
        assert status == 0, output
        zips.append((tree.root / "target/imds-enforcer.zip").read_bytes())
    assert zips[0] == zips[1]
    with zipfile.ZipFile(tree.root / "target/imds-enforcer.zip") as archive:
        assert [(it.filename, it.external_attr >> 16) for it in archive.infolist()] == [("bootstrap", 0o100755)]


def test_an_organization_gets_the_architecture_that_was_built(aws, tree):
    command = ["make", "organization", "OrganizationId=o-a1b2c3d4e5", "Regions=us-east-1", "PublishOnly=yes"]
    region = {"AWS_ENDPOINT_URL": aws.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    status, output = tree.run(*command, binary=elf("x86_64"), **region)
    assert status == 0, output
    url, regions = output.split("TemplateUrl=https://")[1].strip().split(" PublishedRegions=")
    bucket, name = url.split(".s3.us-east-1.amazonaws.com/")
    template = json.loads(aws("s3").get_object(Bucket=bucket, Key=name)["Body"].read())
    assert template["Parameters"]["Architecture"]["AllowedValues"] == ["x86_64"]
    assert regions.split() == ["us-east-1"]
    assert "published to us-east-1, for x86_64" in output


def test_a_guided_deployment_offers_today_and_the_architecture_that_was_built_and_keeps_the_answers(aws, tree):
    region = {"AWS_ENDPOINT_URL": aws.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    today = datetime.now(UTC).date()
    days = [f"{today}", f"{today + timedelta(days=1)}"]  # where the test runs past midnight
    answers = "guided\n\nobserve\n" + 60 * "\n"  # the name of the stack, the Region, Mode; then what is offered
    _, output = tree.run("make", "deploy", "ARCHITECTURE=arm64", binary=elf("arm64"), answers=answers, **region)
    assert "Parameter Architecture [arm64]: " in output, output
    [offered] = re.findall(r"Parameter EnforceSince \[(.*?)\]: ", output)
    assert offered in days, output
    assert "Deploy this changeset? [y/N]" in output, output
    saved = (tree.root / "infra/samconfig.toml").read_text()
    assert f'EnforceSince=\\"{offered}\\"' in saved
    assert 'stack_name = "guided"' in saved and 'Mode=\\"observe\\"' in saved and 'Architecture=\\"arm64\\"' in saved

    (tree.root / "infra/samconfig.toml").write_text(saved.replace(offered, "2026-11-02"))
    _, output = tree.run("make", "deploy", binary=elf("x86_64"), answers=60 * "\n", **region)
    assert "Parameter EnforceSince [2026-11-02]: " in output, output  # the day that was answered first, not a new one
    assert "Stack Name [guided]: " in output and "Parameter Mode [observe]: " in output, output
    assert "Parameter Architecture [arm64]: " in output, output  # as it was saved, though the package is for another
    refused = json.loads((tree.root / "target/template.json").read_text())["Parameters"]["Architecture"]["ConstraintDescription"]
    assert refused == "must be x86_64, which this package was built for: answer x86_64, or build with ARCHITECTURE=arm64"


@pytest.mark.parametrize("target", ["demo", "test", "package"])
@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("#!/bin/sh\nexit 1\n", "install Python 3.11 or newer"),
        ('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\n', "install Python's venv module"),
    ],
    ids=["no Python", "no venv"],
)
def test_what_python_lacks_is_said_before_cargo_is_called(tree, target, python, message):
    (tree.root / ".venv").unlink()
    tree.command("some-python", python)
    status, output = tree.run("make", target, "PYTHON=some-python")
    assert status and message in output
    assert tree.recorded() == []
