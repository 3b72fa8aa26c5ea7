"""Pictures under an ``s3://`` prefix: objects are read one by one, archives once to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from fpnas.data.layout import Entry, arrange
from fpnas.data.source import AbstractSource
from fpnas.errors import FpnasError, InputError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def parse_url(url: str) -> tuple[str, str]:
    """Splits ``s3://bucket/prefix``.

    Raises:
        InputError: When there is no bucket.
    """
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    if not bucket:
        raise InputError("DATA", url, "names no bucket", fix="write s3://bucket/prefix")
    return bucket, prefix


def list_objects(client: S3Client, url: str) -> dict[str, int]:
    """Lists what an ``s3://`` URL names.

    Args:
        client: The S3 client.
        url: A prefix, or one object.

    Returns:
        Sizes in bytes by key relative to the prefix; one object is listed under its base name.

    Raises:
        InputError: When the bucket or the credentials are wrong, or nothing is there.
    """
    bucket, prefix = parse_url(url)
    sizes: dict[str, int] = {}
    folder = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Contents", []):
                key = item["Key"]
                if key == prefix and not key.endswith("/"):
                    return {key.rpartition("/")[2]: item["Size"]}
                # The prefix a/b also lists a/bc, which is another folder.
                if key.startswith(folder) and not key.endswith("/"):
                    sizes[key.removeprefix(folder)] = item["Size"]
    except (ClientError, BotoCoreError) as error:
        raise _unusable(url, error) from error
    if not sizes:
        raise InputError("DATA", url, "holds no objects", fix="check the bucket and the prefix")
    return sizes


def download(client: S3Client, url: str, target: Path) -> Path:
    """Downloads one object to a file and returns the file.

    Raises:
        InputError: When the object cannot be read.
    """
    bucket, key = parse_url(url)
    try:
        client.download_file(bucket, key, str(target))
    except (ClientError, BotoCoreError) as error:
        raise _unusable(url, error) from error
    return target


def _unusable(url: str, error: Exception) -> InputError:
    code = ""
    if isinstance(error, ClientError):
        code = str(error.response.get("Error", {}).get("Code", ""))
    fixes = {
        "NoSuchBucket": "create the bucket or correct its name",
        "NoSuchKey": "check the prefix",
        "AccessDenied": "use credentials that may list and read the bucket",
        "InvalidAccessKeyId": "use credentials that this S3 endpoint knows",
        "SignatureDoesNotMatch": "correct the secret key",
    }
    fix = fixes.get(code, "check the network, S3_ENDPOINT_URL and the credentials")
    return InputError("DATA", url, f"cannot be read from S3 ({error})", fix=fix)


class S3FolderSource(AbstractSource):
    """Single pictures under a prefix, in ImageNet layout or with one folder per class.

    Args:
        client: The S3 client; boto3's clients may be shared by threads.
        url: ``s3://bucket/prefix``.

    Raises:
        InputError: When the prefix cannot be listed or is empty.
    """

    kind = "s3"

    def __init__(self, client: S3Client, url: str) -> None:
        self._client = client
        self._bucket, prefix = parse_url(url)
        self._folder = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        layout = arrange(list_objects(client, url))
        self.entries, self.ignored = layout.entries, layout.ignored
        self.class_names = {}

    def read(self, entry: Entry) -> bytes:
        """Reads one object.

        Raises:
            FpnasError: When S3 fails after the client's own retries. It is not quarantined,
                because the picture itself may be sound.
        """
        key = self._folder + entry.name
        try:
            return self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except (ClientError, BotoCoreError) as error:
            raise FpnasError(f"s3://{self._bucket}/{key} cannot be read: {error}") from error
