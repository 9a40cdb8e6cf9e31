"""The function at work on a local EC2: every instance before and after, and every call of EC2.

Starts the local EC2 (a stand-in, not EC2) and the real function binary under `cargo lambda watch`,
sends the function samples from `events/` through `cargo lambda invoke`, twice, and ends both.
Run it with `make demo`, which builds both.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
CARGO_LAMBDA = pathlib.Path(sys.executable).parent / "cargo-lambda"
SAMPLES = [
    "RunInstances/three",
    "RunInstances/auto-scaling",
    "RunInstances/ec2-fleet",
    "RunInstances/already-required",
    "ModifyInstanceMetadataOptions/downgrade-to-optional",
    "ModifyInstanceMetadataOptions/our-own-change",
    "ModifyInstanceMetadataOptions/endpoint-enabled-without-tokens",
    "ModifyInstanceMetadataOptions/endpoint-disabled",
    "StateChange/pending",
    "StateChange/of-a-launch",
    "RunInstances/asks-for-optional",
    "StateChange/terminated",
    "RunInstances/failed",
    "Other/another-region",
]
INTERRUPTIONS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
WIDE = sys.stdout.isatty()


def bold(text):
    return f"\033[1m{text}\033[0m" if WIDE else text


def say(text=""):
    print(text, flush=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextlib.contextmanager
def running(command, log, **variables):
    """A process in a session of its own, which ends with all that it started."""
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for interruption in INTERRUPTIONS:  # a further one must not stop the ending
            signal.signal(interruption, signal.SIG_IGN)
        end(process, signal.SIGINT) or end(process, signal.SIGKILL)


def end(process, how):
    """Whether the process is gone, five seconds after the signal."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, how)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return False
    return True


def wait_for(address, process, log):
    """Waits until something listens at `address`, as long as the process lives."""
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=1):
            return
        time.sleep(0.1)
    log.flush()
    sys.exit(f"{process.args[0]} does not listen on {address}:\n{pathlib.Path(log.name).read_text()}")


class LocalEc2:
    """The control paths of the stand-in."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        # No proxy: the address is this machine's own.
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.endpoint}/_local/{path}", data, method=method)
        with self.opener.open(request, timeout=600) as response:
            return json.load(response)

    def instances(self):
        return {it["instance_id"]: it for it in self.ask("GET", "instances")}


def invoke(port, sample):
    """Sends one sample to the function, and answers its report or its error."""
    command = [CARGO_LAMBDA, "lambda", "invoke", "imds-enforcer", "--invoke-address", "127.0.0.1", "--invoke-port", port]
    command += ["--data-file", ROOT / "events" / f"{sample}.json"]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip()


def summary(answer):
    """One line of what an invocation answered."""
    try:
        report = json.loads(answer)
    except ValueError:
        return f"failed: {answer.split()[1]}" if answer.startswith("Error: ") else f"failed: {answer[:110]}"
    if "ignored" in report:
        return f"ignored: {report['ignored'][:110]}"
    if "counts" not in report:
        return f"failed: {json.dumps(report)[:110]}"
    counts = {name: count for name, count in report["counts"].items() if count and name != "examined"}
    causes = [it["cause"] for it in report["instances"] if it["outcome"] == "compliant" and "cause" in it]
    known = {f"left open by {cause['actor'].split(':')[-1]} ({cause['kind']})" for cause in causes}
    return ", ".join([*(f"{count} {name}" for name, count in counts.items()), *sorted(known)])


def table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
        say(bold(line) if number == 0 else line)


def options(instance):
    it = instance["metadata_options"]
    return f"{it['http_tokens']}, hop {it['http_put_response_hop_limit']}"


def show(before, after):
    rows = [("INSTANCE", "STATE", "ENDPOINT", "TOKENS BEFORE", "TOKENS AFTER", "")]
    for name, instance in before.items():
        was, now = options(instance), options(after[name])
        endpoint = instance["metadata_options"]["http_endpoint"]
        rows.append((name, instance["state"], endpoint, was, now, "<- enforced" if was != now else ""))
    table(rows)


def run(ec2, port, title):
    """Sends every sample, and returns how many calls of EC2 there were, by action."""
    say(f"\n{bold(title)}")
    ec2.ask("DELETE", "calls")
    table([("EVENT", "ANSWER"), *((sample, summary(invoke(port, sample))) for sample in SAMPLES)])
    return {action: count for action, count in ec2.ask("GET", "counts").items() if action != "none"}


def main():
    text = "".join((ROOT / "events" / f"{sample}.json").read_text() for sample in SAMPLES)
    fleet = [it for it in json.loads((ROOT / "tests/fleet.json").read_text()) if it["instance_id"] in text]
    ec2_port, port = free_port(), free_port()
    endpoint = f"http://127.0.0.1:{ec2_port}"
    variables = {
        "AWS_ENDPOINT_URL_EC2": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
        "IMDS_MODE": "enforce",
    }
    watch = [CARGO_LAMBDA, "lambda", "watch", "--ignore-changes", "--invoke-address", "127.0.0.1", "--invoke-port", port]
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log, contextlib.ExitStack() as processes:
        local_ec2 = processes.enter_context(running([ROOT / "target/debug/local-ec2", "--port", ec2_port], log))
        wait_for(("127.0.0.1", ec2_port), local_ec2, log)
        say(f"\nThe local EC2, a stand-in and not EC2, serves {len(fleet)} instances at {endpoint}")
        ec2 = LocalEc2(endpoint)
        ec2.ask("POST", "instances", fleet)
        watcher = processes.enter_context(running(watch, log, **variables))
        wait_for(("127.0.0.1", port), watcher, log)
        say(f"The function runs under cargo lambda watch at http://127.0.0.1:{port}")

        before = ec2.instances()
        first = run(ec2, port, "First run")
        after = ec2.instances()
        second = run(ec2, port, "Second run, the same events again")

        say(f"\n{bold('What became of the instances')}")
        show(before, after)
        say()
        table([("CALLS OF EC2", "FIRST RUN", "SECOND RUN"), *((action, str(first.get(action, 0)), str(second.get(action, 0))) for action in sorted({*first, *second}))])
    open_still = [name for name, it in after.items() if is_violator(it)]
    if open_still or second.get("ModifyInstanceMetadataOptions", 0):
        sys.exit(f"\nNot as it should be: violators left: {open_still}, calls of the second run: {second}")
    say("\nEvery violator is enforced, and the second run wrote nothing.")


def is_violator(instance):
    it = instance["metadata_options"]
    gone = instance["state"] in ("shutting-down", "terminated")
    return not gone and it["http_endpoint"] != "disabled" and it["http_tokens"] != "required"


if __name__ == "__main__":
    for interruption in INTERRUPTIONS:
        signal.signal(interruption, lambda number, _: sys.exit(128 + number))
    main()
