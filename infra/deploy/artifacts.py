"""Puts a package and its template into SAM's bucket of a Region, by SAM's own code, as sam deploy does.

So the same package has the same key whichever way it is deployed, and the bucket is SAM's managed
one, which is made where it is missing.
"""

import json
import logging
import pathlib
import tempfile

import sam
from botocore.exceptions import BotoCoreError, ClientError
from samcli.commands.exceptions import UserException
from samcli.commands.package.package_context import PackageContext
from samcli.lib.bootstrap.bootstrap import manage_stack
from samcli.lib.package.s3_uploader import S3Uploader
from stack import Failed

# As infra/samconfig.toml has it for sam deploy by hand.
PREFIX = "imds-enforcer"
# SAM's code logs whatever boto3 does.
logging.getLogger().setLevel(logging.WARNING)


def published(session, region, zipped):
    """The URL of the template that goes with a package."""
    try:
        bucket = manage_stack(profile=None, region=region)
        uploader = S3Uploader(session.client("s3", region_name=region), bucket, PREFIX, no_progressbar=True)
        with tempfile.TemporaryDirectory() as folder:
            return uploaded(uploader, pathlib.Path(folder), zipped, region)
    except (UserException, BotoCoreError, ClientError) as error:
        raise Failed(f"SAM's bucket does not take the package: {error}") from error


def uploaded(uploader, folder, zipped, region):
    """Packages as sam package does, which also states in each resource's metadata where it comes from."""
    raw, packaged = folder / "template.json", folder / "packaged.json"
    (folder / "imds-enforcer.zip").write_bytes(zipped)
    raw.write_text(json.dumps(sam.of_package(zipped)))
    unused = dict.fromkeys(["image_repository", "image_repositories", "kms_key_id", "metadata", "profile"])
    options = {"use_json": True, "force_upload": False, "no_progressbar": True, "on_deploy": True}
    places = {"template_file": str(raw), "output_template_file": str(packaged), "s3_bucket": uploader.bucket_name, "s3_prefix": PREFIX, "region": region}
    PackageContext(**places, **options, **unused).run()
    packaged.write_text(json.dumps(json.loads(packaged.read_text()), separators=(",", ":")))
    key = uploader.upload_with_dedup(str(packaged), "template").split(f"s3://{uploader.bucket_name}/", 1)[1]
    return uploader.to_path_style_s3_url(key)
