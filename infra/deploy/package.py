"""Packs a `bootstrap` for Lambda: the same binary makes the same zip, to the byte, whatever its file's mode.

SAM, the CDK and the organization's buckets upload this very zip. Which architecture a zip is for
is read from the binary in it, so that it is never deployed as another's.

    package.py FOLDER ZIP ARCHITECTURE
"""

import hashlib
import io
import os
import pathlib
import sys
import zipfile

# The field e_machine in the header of an ELF file.
MACHINES = {62: "x86_64", 183: "arm64"}


def pack(binary):
    """The zip of a binary: this one file, executable, without its time."""
    entry = zipfile.ZipInfo("bootstrap")
    entry.create_system = 3
    entry.external_attr = 0o100755 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr(entry, binary, compresslevel=9)
    return zipped.getvalue()


def architecture(package):
    """What the binary in a zip runs on, in Lambda's words."""
    with zipfile.ZipFile(io.BytesIO(package)) as archive:
        header = archive.read("bootstrap")[:20]
    machine = int.from_bytes(header[18:20], "little")
    if header[:4] != b"\x7fELF" or machine not in MACHINES:
        sys.exit(f"bootstrap is no ELF binary for {' or '.join(MACHINES.values())}")
    return MACHINES[machine]


def put(path, content):
    """Writes a file at once or not at all, so that nobody reads half of it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.draft")
    draft.write_bytes(content)
    os.replace(draft, path)


def main(folder, name, wanted):
    bootstrap, package = pathlib.Path(folder, "bootstrap"), pathlib.Path(name)
    if not bootstrap.is_file():
        sys.exit(f"{bootstrap} is missing: cargo lambda build writes it")
    zipped = pack(bootstrap.read_bytes())
    if (found := architecture(zipped)) != wanted:
        sys.exit(f"{bootstrap} is for {found}, not for {wanted}: build with ARCHITECTURE={wanted}")
    put(package, zipped)
    print(f"{package}: {len(zipped):,} bytes, for {found}, SHA-256 {hashlib.sha256(zipped).hexdigest()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
