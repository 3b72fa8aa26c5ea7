"""Make the bucket of ``FPNAS_STORAGE`` unless it is there."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import boto3


def make(client: Any, storage: str) -> str:
    """Makes the bucket that ``s3://bucket[/prefix]`` names; returns its name."""
    bucket = urlsplit(storage).netloc
    if bucket not in [item["Name"] for item in client.list_buckets()["Buckets"]]:
        client.create_bucket(Bucket=bucket)
    return bucket


if __name__ == "__main__":
    make(
        boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT_URL"]), os.environ["FPNAS_STORAGE"]
    )
