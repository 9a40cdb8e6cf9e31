"""Builds the package for an architecture, or says why that can't be done here.

cargo lambda adds a missing target by rustup on its own: it is not called where the standard library
for the target is not installed. One package is built at a time, and taken before the next is built.

    build.py ARCHITECTURE

says whether a package can be built for it.
"""

import fcntl
import os
import pathlib
import subprocess
import sys

import package

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "target/imds-enforcer.zip"
# What make hands down to a make that it calls: the parameters of a deployment are no business of the build.
OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")


def hindrance(architecture):
    """Why a package can't be built for an architecture, and what to do, or None."""
    if architecture not in package.MACHINES.values():
        return f'the architecture is "{architecture}"; it must be one of {", ".join(package.MACHINES.values())}'
    target = f"{architecture.replace('arm64', 'aarch64')}-unknown-linux-gnu"
    command = ["rustc", "--print", "target-libdir", "--target", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0 and list(pathlib.Path(done.stdout.strip()).glob("libstd-*")):
        return None
    return f"can't build for {architecture}: Rust's standard library for {target} is not installed; run rustup target add {target}"


def packages(architectures):
    """The zip for each architecture, built by make package."""
    for architecture in architectures:
        if reason := hindrance(architecture):
            sys.exit(reason)
    return {architecture: built(architecture) for architecture in architectures}


def built(architecture):
    PACKAGE.parent.mkdir(exist_ok=True)
    with open(PACKAGE.with_name("package.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return made(architecture)


def made(architecture):
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    command = ["make", "--no-print-directory", "package", f"ARCHITECTURE={architecture}"]
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        sys.exit(f"the package for {architecture} was not built; nothing was deployed")
    zipped = PACKAGE.read_bytes()
    if (found := package.architecture(zipped)) != architecture:
        sys.exit(f"{PACKAGE} is for {found}, not for {architecture}; nothing was deployed")
    return zipped


if __name__ == "__main__":
    sys.exit(hindrance(*sys.argv[1:]))
