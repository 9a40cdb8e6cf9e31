"""What the tests start from: an emulated AWS, a local EC2, and the stack deployed to the former."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

import boto3
import pytest
from botocore.config import Config
from template import ROOT

# The SAM translator asks for a Region, and must not take the one of whoever runs the tests.
os.environ["AWS_DEFAULT_REGION"] = os.environ["AWS_REGION"] = "us-east-1"

BIN = pathlib.Path(sys.executable).parent
MINISTACK = [ROOT / ".tools/ministack/bin/python3", pathlib.Path(__file__).parent / "emulator.py"]
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
# How long something takes is the machine's business: this is for what would never come.
PATIENCE_SECONDS = 1800
NO_FILES = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def serving(command, port, log, **variables):
    """A server on 127.0.0.1, from when it listens until the tests end."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=log.parent,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: process.poll() is not None or listens(port), f"{command[0]} listens")
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def listens(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def eventually(holds, what):
    """Waits until something holds, and answers what it was."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.1)
    raise AssertionError(f"after {PATIENCE_SECONDS} s it is not so that {what}")


class LocalEc2:
    """The control paths of the local EC2."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.endpoint}/_local/{path}", data, method=method)
        with self.opener.open(request, timeout=PATIENCE_SECONDS) as response:
            return json.load(response)

    def put(self, instance_id, created=None, **tags):
        """A running instance whose tokens are optional."""
        launch_time = {"launch_time": created.strftime("%Y-%m-%dT%H:%M:%S.000Z")} if created else {}
        self.ask("POST", "instances", [{"instance_id": instance_id, "tags": tags, **launch_time}])

    def tokens(self, instance_id):
        found = {it["instance_id"]: it for it in self.ask("GET", "instances")}
        return found[instance_id]["metadata_options"]["http_tokens"]

    def writes(self):
        return self.ask("GET", "counts").get("ModifyInstanceMetadataOptions", 0)


@pytest.fixture(scope="session")
def local_ec2(tmp_path_factory):
    port = free_port()
    command = [ROOT / "target/debug/local-ec2", "--port", port, "--transition-ms", 0]
    with serving(command, port, tmp_path_factory.mktemp("local-ec2") / "log") as endpoint:
        yield LocalEc2(endpoint)


@pytest.fixture(scope="session")
def aws(tmp_path_factory):
    """MiniStack, an emulator of AWS: a function that makes clients of its services. An access key of twelve digits is that account's."""
    port, folder = free_port(), tmp_path_factory.mktemp("ministack")
    variables = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "IOT_MTLS_ENABLED": "0",
        "LAMBDA_ASYNC_RETRY_BASE_SECONDS": "1",
    }
    with serving(MINISTACK, port, folder / "log", **variables) as endpoint:
        patient = Config(read_timeout=PATIENCE_SECONDS, retries={"total_max_attempts": 1})

        def client(service, region="us-east-1", account="AKIAIOSFODNN7EXAMPLE"):
            session = boto3.Session(account, "not-a-secret")
            return session.client(service, region_name=region, endpoint_url=endpoint, config=patient)

        client.endpoint = endpoint
        eventually(lambda: can_call(client("sts").get_caller_identity), "MiniStack answers")
        yield client


def can_call(call):
    with contextlib.suppress(Exception):
        return call()
    return None


def run(command, folder, **variables):
    """Runs a command of a deployment, with the tools that `make test` installs."""
    environment = {**os.environ, **KEYS, **NO_FILES, "SAM_CLI_TELEMETRY": "0", "CI": "true", **variables}
    environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, cwd=ROOT / folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def elf(architecture):
    """The header of a binary for an architecture, which stands for the binary."""
    machine = {"x86_64": 62, "arm64": 183}[architecture]
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(44)


def deploy_with_sam(aws):
    run(["make", "package"], ".")
    run(["sam", "build"], "infra")
    options = ["EnforceSince=all", "GraceDays=14", "SweepLimit=1000", "WatchRefusals=1", "ResultBus=results-of-sam"]
    deploy = ["sam", "deploy", "--no-confirm-changeset", "--no-progressbar", "--parameter-overrides", *options]
    run(deploy, "infra", AWS_ENDPOINT_URL=aws.endpoint)
    return "imds-enforcer"


def deploy_with_cdk(aws):
    variables = {"AWS_ENDPOINT_URL": aws.endpoint, "CDK_DEFAULT_REGION": "us-east-1"}
    account = aws("sts").get_caller_identity()["Account"]
    run(["npx", "--no-install", "cdk", "bootstrap", f"aws://{account}/us-east-1"], "infra/cdk", **variables)
    given = ["enforceSince=all", "graceDays=14", "sweepLimit=1000", "watchRefusals=1", "resultBus=results-of-cdk"]
    options = [option for it in given for option in ("-c", it)]
    run(["npx", "--no-install", "cdk", "deploy", "--require-approval", "never", *options], "infra/cdk", **variables)
    return "imds-enforcer-cdk"


@pytest.fixture(scope="session", params=[deploy_with_sam, deploy_with_cdk], ids=["sam", "cdk"])
def stack(request, aws, local_ec2):
    """The stack, deployed either way with all that is off by default, with its function pointed at
    the local EC2: its outputs."""
    name = request.param(aws)
    [deployed] = aws("cloudformation").describe_stacks(StackName=name)["Stacks"]
    outputs = {it["OutputKey"]: it["OutputValue"] for it in deployed["Outputs"]}

    function = aws("lambda").get_function_configuration(FunctionName=outputs["FunctionName"])
    endpoints = {"EC2": local_ec2.endpoint, "EVENTBRIDGE": aws.endpoint, "CLOUDWATCH": aws.endpoint}
    variables = {f"AWS_ENDPOINT_URL_{service}": endpoint for service, endpoint in endpoints.items()}
    variables |= function["Environment"]["Variables"]
    aws("lambda").update_function_configuration(
        FunctionName=outputs["FunctionName"],
        Environment={"Variables": variables},
        # The emulator's CloudFormation leaves out what the template has here (checks.py looks at that).
        DeadLetterConfig={"TargetArn": outputs["LaunchQueueArn"]},
    )
    return outputs
