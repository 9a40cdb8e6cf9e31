"""Packs a `bootstrap` for Lambda: the same binary makes the same zip, to the byte."""

import hashlib
import pathlib
import sys
import zipfile

binary, package = (pathlib.Path(argument) for argument in sys.argv[1:])
entry = zipfile.ZipInfo("bootstrap", date_time=(1980, 1, 1, 0, 0, 0))
entry.external_attr = 0o100755 << 16
entry.create_system = 3
entry.compress_type = zipfile.ZIP_DEFLATED
with zipfile.ZipFile(package, "w") as archive:
    archive.writestr(entry, binary.read_bytes(), compresslevel=9)
digest = hashlib.sha256(package.read_bytes()).hexdigest()
print(f"{package}: {package.stat().st_size:,} bytes, SHA-256 {digest}")
