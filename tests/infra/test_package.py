"""What `make` builds and refuses, with a cargo that compiles nothing, in a folder whose name has a space."""

import hashlib
import json
import os
import pty
import shutil
import subprocess
import zipfile

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

# Names the folder of a target's standard library, as rustc does whether it is there or not.
RUSTC = """#!/bin/sh
for argument; do
    [ "$previous" = --target ] && echo "$RUSTLIB/$argument"
    previous=$argument
done
"""
TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]


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
        self.command("rustc", RUSTC)
        for target in TARGETS:
            (root / "rustlib" / target).mkdir(parents=True)
            (root / "rustlib" / target / "libstd-0.rlib").touch()

    def command(self, name, text):
        path = self.root / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def lacks(self, target):
        """Rust without the standard library for a target."""
        shutil.rmtree(self.root / "rustlib" / target)

    def run(self, *command, folder=".", umask=0o022, binary=None, answers="", **variables):
        environment = self.environment(binary, **variables)
        done = subprocess.run(command, cwd=self.root / folder, env=environment, umask=umask, input=answers, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def on_a_terminal(self, *command, answers="", binary=None, **variables):
        """The exit code and the output of a command that a person runs, who types the answers."""
        terminal, end = pty.openpty()
        os.write(terminal, f"{answers}\x04\x04".encode())  # and the end of what is typed
        environment = self.environment(binary, **variables)
        environment["PYTHONUNBUFFERED"] = "1"  # so that both outputs come in the order of a terminal
        done = subprocess.run(command, cwd=self.root, env=environment, stdin=end, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        os.close(end)
        os.close(terminal)
        return done.returncode, done.stdout

    def environment(self, binary=None, **variables):
        built = self.root / "built"
        if binary is not None:
            built.write_bytes(binary)
        unset = ("ARCHITECTURE", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "YES", "AWS_REGION", "AWS_DEFAULT_REGION")
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        environment |= KEYS | NO_FILES | {"RECORD": str(self.record), "BINARY": "" if binary is None else str(built), "RUSTLIB": str(self.root / "rustlib")}
        environment |= variables
        environment["PATH"] = f"{self.root / 'bin'}{os.pathsep}{environment['PATH']}"
        return environment

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
    assert regions.split() == ["us-east-1", "Architecture=x86_64"]
    assert "published to us-east-1" in output


@pytest.mark.parametrize(("architecture", "target"), [("x86_64", TARGETS[0]), ("arm64", TARGETS[1])])
def test_without_the_standard_library_of_the_target_cargo_lambda_is_never_called(tree, architecture, target):
    tree.lacks(target)
    status, output = tree.run("make", "package", f"ARCHITECTURE={architecture}", binary=elf(architecture))
    assert status and f"can't build for {architecture}: Rust's standard library for {target} is not installed; run rustup target add {target}" in output
    assert tree.recorded() == []


def test_an_architecture_that_lambda_does_not_have_is_refused(tree):
    status, output = tree.run("make", "package", "ARCHITECTURE=riscv", binary=elf("arm64"))
    assert status and 'the architecture is "riscv"; it must be one of x86_64, arm64' in output
    assert tree.recorded() == []


def test_a_guided_deployment_by_hand_offers_the_architecture_that_was_built_and_saves_the_answers_in_target(aws, tree):
    region = {"AWS_ENDPOINT_URL": aws.endpoint, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "555500000001"}
    status, output = tree.run("make", "package", "ARCHITECTURE=arm64", binary=elf("arm64"))
    assert status == 0, output
    answers = "guided\n\nobserve\n2026-11-02\n" + 60 * "\n"  # the name of the stack, the Region, Mode, EnforceSince; then what is offered
    _, output = tree.run(str(BIN / "sam"), "deploy", "--guided", folder="infra", answers=answers, SAM_CLI_TELEMETRY="0", **region)
    assert "Parameter Architecture [arm64]: " in output, output
    assert "Parameter EnforceSince []: " in output or "Parameter EnforceSince: " in output, output
    assert "Deploy this changeset? [y/N]" in output, output
    saved = (tree.root / "target/samconfig.toml").read_text()
    assert 'stack_name = "guided"' in saved and 'Mode=\\"observe\\"' in saved and 'EnforceSince=\\"2026-11-02\\"' in saved
    assert (tree.root / "infra/samconfig.toml").read_text() == (ROOT / "infra/samconfig.toml").read_text()


def test_whoever_reads_a_file_of_the_package_reads_all_of_it_or_the_one_before(tree):
    names = ("imds-enforcer.zip", "template.json", "cloudformation.json")
    status, output = tree.run("make", "package", binary=elf("x86_64"))
    assert status == 0, output
    before = {}
    for name in names:
        os.link(tree.root / "target" / name, tree.root / name)  # what a reader has open
        before[name] = (tree.root / name).read_bytes()
    (tree.root / "target/lambda/imds-enforcer/bootstrap").unlink()
    status, output = tree.run("make", "package", "ARCHITECTURE=arm64", binary=elf("arm64"))
    assert status == 0, output
    for name in names:
        assert (tree.root / name).read_bytes() == before[name] != (tree.root / "target" / name).read_bytes()
    assert not list((tree.root / "target").glob("*.draft"))


# The first build takes a while to end, when its binary is there: one that begins meanwhile would put another in its place.
SLOW = """for argument; do case "$argument" in *-linux-gnu*) target=$argument;; esac; done
[ -e "$RECORD.first" ] || first=yes
touch "$RECORD.first"
BINARY=$RUSTLIB/${target%.2.26}/binary
"""


def test_two_deployments_of_one_checkout_each_take_what_they_built(tree):
    tree.command("cargo", CARGO.replace('echo "$@"', SLOW + 'echo "$@"', 1) + '[ -z "$first" ] || sleep 3\n')
    for target, architecture in zip(TARGETS, ("x86_64", "arm64"), strict=True):
        (tree.root / "rustlib" / target / "binary").write_bytes(elf(architecture))
    script = "import sys, build, package; [(name, zipped)] = build.packages(sys.argv[1:]).items(); print(package.architecture(zipped))"
    command = [str(BIN / "python"), "-c", script]
    environment = {**tree.environment(elf("x86_64")), "PYTHONPATH": str(tree.root / "infra/deploy")}
    running = [subprocess.Popen([*command, it], cwd=tree.root, env=environment, stdout=subprocess.PIPE, text=True) for it in ("x86_64", "arm64")]
    printed = [it.communicate()[0].splitlines()[-1] for it in running]
    assert printed == ["x86_64", "arm64"]


@pytest.mark.parametrize(
    ("given", "upper", "lower"),
    [
        ({}, "127.0.0.1,localhost", "127.0.0.1,localhost"),
        ({"NO_PROXY": "corp.example"}, "corp.example,127.0.0.1,localhost", "corp.example,127.0.0.1,localhost"),
        ({"no_proxy": "corp.example"}, "corp.example,127.0.0.1,localhost", "corp.example,127.0.0.1,localhost"),
        ({"NO_PROXY": "one.example, two.example", "no_proxy": "three.example"}, "one.example, two.example,127.0.0.1,localhost", "three.example,127.0.0.1,localhost"),
        ({"NO_PROXY": "*"}, "*", "*"),
    ],
    ids=["nothing", "upper", "lower", "both", "everything"],
)
def test_what_is_reached_without_a_proxy_stays_and_what_is_here_is_added(tree, monkeypatch, given, upper, lower):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    # By a make that make calls, too, nothing comes twice.
    rule = 'shown: ; @echo "$$NO_PROXY;$$no_proxy"'
    for nested in ([], ["--eval", "nested: ; @$(MAKE) --no-print-directory shown", "nested"]):
        status, output = tree.run("make", "--eval", rule, *(nested or ["shown"]), **given)
        assert (status, output.strip()) == (0, f"{upper};{lower}")


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
