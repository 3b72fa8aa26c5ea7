"""Put a dump of MLflow's database into S3 and delete dumps that are too old.

It runs in the tracking server's image, so it needs nothing but boto3. Dumps stand under
``$FPNAS_STORAGE/backups/mlflow/``, named by the time in UTC.
"""

from __future__ import annotations

import datetime
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3

MAGIC = b"PGDMP"  # pg_dump's custom format begins with it
ALWAYS_KEPT = 7  # newest dumps that stay however old they are


def upload(dump: Path, client: Any, storage: str, now: datetime.datetime) -> str:
    """Uploads a dump and returns its key.

    Raises:
        ValueError: If the file is no dump in PostgreSQL's custom format.
        OSError: If the store does not hold as many bytes as the file has.
    """
    size_bytes = dump.stat().st_size
    with dump.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(
                f"{dump} ({size_bytes} bytes) is no dump in PostgreSQL's custom format"
            )
    bucket, folder = location(storage)
    key = f"{folder}{now:%Y%m%dT%H%M%SZ}.dump"
    client.upload_file(str(dump), bucket, key)
    stored_bytes = client.head_object(Bucket=bucket, Key=key)["ContentLength"]
    if stored_bytes != size_bytes:
        raise OSError(f"s3://{bucket}/{key} has {stored_bytes} bytes, the dump {size_bytes}")
    return key


def prune(client: Any, storage: str, now: datetime.datetime, keep_days: int) -> list[str]:
    """Deletes dumps older than ``keep_days``, never the newest seven; returns their keys."""
    bucket, folder = location(storage)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    # The names are times, so they sort by age.
    dumps = sorted((key for key in keys if key.endswith(".dump")), reverse=True)
    oldest_kept = f"{folder}{now - datetime.timedelta(days=keep_days):%Y%m%dT%H%M%SZ}.dump"
    expired = [key for key in dumps[ALWAYS_KEPT:] if key < oldest_kept]
    for key in expired:
        client.delete_object(Bucket=bucket, Key=key)
    return expired


def location(storage: str) -> tuple[str, str]:
    """Returns the bucket and the folder of the dumps under ``s3://bucket[/prefix]``."""
    parts = urlsplit(storage)
    prefix = parts.path.strip("/")
    return parts.netloc, f"{prefix}/backups/mlflow/" if prefix else "backups/mlflow/"


def main(arguments: list[str], environ: Mapping[str, str] = os.environ) -> None:
    """Uploads the dump that is named, then prunes."""
    client = boto3.client("s3", endpoint_url=environ.get("S3_ENDPOINT_URL") or None)
    storage, now = environ["FPNAS_STORAGE"], datetime.datetime.now(datetime.UTC)
    key = upload(Path(arguments[0]), client, storage, now)
    expired = prune(client, storage, now, int(environ.get("KEEP_DAYS", "30")))
    sys.stdout.write(f"uploaded {key}, deleted {len(expired)} older dumps\n")


if __name__ == "__main__":
    main(sys.argv[1:])
