"""A digest of what is behind a name of data, without reading the pictures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client


def fingerprint(data: str, s3_client: S3Client | None = None) -> str:
    """Digests names, sizes and times of change (or the tags that S3 gives to contents).

    It changes when the pictures may have changed: preparing them again then tells whether they
    did, since a prepared dataset is identified by its contents.

    Args:
        data: As in :class:`fpnas.data.options.PrepareOptions`.
        s3_client: For ``s3://`` data.
    """
    hashed = hashlib.sha256()
    for line in _lines(data, s3_client):
        hashed.update(f"{line}\n".encode())
    return hashed.hexdigest()


def _lines(data: str, s3_client: S3Client | None) -> Iterator[str]:
    path = Path(data)
    if data.startswith("s3://"):
        assert s3_client is not None
        bucket, _, prefix = data.removeprefix("s3://").partition("/")
        pages = s3_client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        for page in pages:
            for item in page.get("Contents", ()):
                yield f"{item.get('Key')} {item.get('Size')} {item.get('ETag')}"
    elif path.is_dir():
        yield from sorted(_files(path, path))
    elif path.is_file():
        status = path.stat()
        yield f"{status.st_size} {status.st_mtime_ns}"
    else:
        yield data


def _files(top: Path, folder: Path) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(top, Path(entry.path))
            elif entry.is_file():
                status = entry.stat()
                name = Path(entry.path).relative_to(top)
                yield f"{name} {status.st_size} {status.st_mtime_ns}"
