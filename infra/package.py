"""Packs the folder of a `bootstrap` for Lambda: the same binary makes the same zip, to the byte.

SAM packs what it deploys by the same function, and the CDK deploys this zip, so that the hash is
the same whichever way the function is deployed.

    package.py FOLDER ZIP_WITHOUT_SUFFIX
"""

import hashlib
import pathlib
import sys

from samcli.lib.package.utils import make_zip_with_lambda_permissions

folder, name = sys.argv[1:]
package = pathlib.Path(make_zip_with_lambda_permissions(name, folder))
digest = hashlib.sha256(package.read_bytes()).hexdigest()
print(f"{package}: {package.stat().st_size:,} bytes, SHA-256 {digest}")
