"""Puts a package and its template into SAM's bucket of a Region, by SAM's own code, as sam deploy does.

So the same package has the same key whichever way it is deployed, and the bucket is SAM's managed
one, which is made where it is missing.
"""

import json
import pathlib
import tempfile

import sam
from botocore.exceptions import BotoCoreError, ClientError
from samcli.commands.exceptions import UserException
from samcli.lib.bootstrap.bootstrap import manage_stack
from samcli.lib.package.s3_uploader import S3Uploader
from stack import Failed

# As infra/samconfig.toml has it for sam deploy by hand.
PREFIX = "imds-enforcer"


def published(session, region, zipped):
    """The URL of the template that goes with a package."""
    try:
        bucket = manage_stack(profile=None, region=region)
        uploader = S3Uploader(session.client("s3", region_name=region), bucket, PREFIX, no_progressbar=True)
        with tempfile.TemporaryDirectory() as folder:
            return uploaded(uploader, pathlib.Path(folder), zipped)
    except (UserException, BotoCoreError, ClientError) as error:
        raise Failed(f"SAM's bucket does not take the package: {error}") from error


def uploaded(uploader, folder, zipped):
    code, body = folder / "imds-enforcer.zip", folder / "template.json"
    code.write_bytes(zipped)
    template = sam.of_package(zipped)
    template["Resources"]["Function"]["Properties"]["CodeUri"] = uploader.upload_with_dedup(str(code))
    body.write_text(json.dumps(template, separators=(",", ":")))
    key = uploader.upload_with_dedup(str(body), "template").split(f"s3://{uploader.bucket_name}/", 1)[1]
    return uploader.to_path_style_s3_url(key)
