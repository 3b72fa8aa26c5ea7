"""Objects under one prefix of one bucket, and the artifacts made of them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import mimetypes
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import botocore.exceptions

from fpnas.errors import InputError
from fpnas.storage.artifacts import Artifact, ArtifactWriter, read_manifest
from fpnas.storage.cache import LocalCache, cache_directory
from fpnas.storage.connection import (
    DEFAULT_STORAGE,
    STREAM_ERRORS,
    Connection,
    full_disk_error,
    is_full_disk,
    parse_s3_uri,
    raise_check_error,
    translated,
)
from fpnas.storage.errors import ObjectMissingError, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# S3 takes up to 5 GB in one PUT, but a broken connection then repeats all of it.
_SINGLE_PUT_BYTES = 32 << 20
_READ_BYTES = 1 << 20
_STREAM_ATTEMPTS = 3
_CHECK_ERRORS = (
    botocore.exceptions.ClientError,
    botocore.exceptions.BotoCoreError,
    *STREAM_ERRORS,
)


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a listing: its key relative to the store, and its size in bytes."""

    key: str
    size: int


class Store:
    """Objects by key, under one prefix of one bucket.

    May be used after a fork and by other threads, and can be pickled.

    Args:
        connection: How to reach the server.
        bucket: The bucket's name. The store does not create it.
        prefix: What all keys start with, without slashes at its ends.
        cache: Where local copies go.
    """

    def __init__(self, connection: Connection, bucket: str, prefix: str, cache: LocalCache) -> None:
        self.connection, self.bucket, self.prefix, self.cache = connection, bucket, prefix, cache
        self._client: tuple[int, S3Client] | None = None  # the process it belongs to, and it

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}

    @property
    def client(self) -> S3Client:
        """The boto3 client of this process (a connection shared with a fork mixes answers)."""
        if self._client is None or self._client[0] != os.getpid():
            self._client = (os.getpid(), self.connection.client())
        return self._client[1]

    def at(self, uri: str) -> Store:
        """Returns a store over another place on the same server.

        Raises:
            InputError: If ``uri`` is not ``s3://BUCKET[/PREFIX]``.
        """
        return Store(self.connection, *parse_s3_uri(uri, "uri"), self.cache)

    def uri(self, key: str = "") -> str:
        """Returns the full ``s3://`` address of a key."""
        return f"s3://{self.bucket}/{self._full(key)}"

    def check_readable(self) -> None:
        """Proves that objects can be listed here, and leaves nothing.

        Raises:
            InputError: As :meth:`check`.
        """
        client = self.connection.client(max_attempts=2)
        try:
            client.list_objects_v2(Bucket=self.bucket, Prefix=self._full("probes/"), MaxKeys=1)
        except _CHECK_ERRORS as error:
            raise_check_error(error, self.connection, self.bucket, "list objects")

    def check(self) -> None:
        """Proves that objects can be listed, written, read and deleted here.

        Raises:
            InputError: Naming S3_ENDPOINT_URL (it does not answer), AWS_ACCESS_KEY_ID (no keys,
                or the wrong ones) or FPNAS_STORAGE (no such bucket, or not writable).
        """
        self.check_readable()
        client = self.connection.client(max_attempts=2)
        probe = self._full(f"probes/{uuid.uuid4().hex}")
        action = "write objects"
        try:
            client.put_object(Bucket=self.bucket, Key=probe, Body=b"probe")
            action = "read objects"
            body = client.get_object(Bucket=self.bucket, Key=probe)["Body"].read()
            action = "delete objects"
            client.delete_object(Bucket=self.bucket, Key=probe)
        except _CHECK_ERRORS as error:
            raise_check_error(error, self.connection, self.bucket, action)
        if body != b"probe":
            raise InputError(
                "S3_ENDPOINT_URL",
                self.connection.endpoint,
                "returns other bytes than were written",
                fix="use a server that stores objects unchanged",
            )

    def create_bucket(self) -> None:
        """Creates the bucket; does nothing when it is there already."""
        with translated("create", f"s3://{self.bucket}"):
            try:
                self.client.create_bucket(Bucket=self.bucket)
            except (
                self.client.exceptions.BucketAlreadyOwnedByYou,
                self.client.exceptions.BucketAlreadyExists,
            ):
                return

    def exists(self, key: str) -> bool:
        """Tells whether there is an object with this key."""
        try:
            with translated("look up", self.uri(key)):
                self.client.head_object(Bucket=self.bucket, Key=self._full(key))
        except ObjectMissingError:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yields the objects whose keys start with ``prefix``, in the order of their keys."""
        start = len(self._full(""))
        with translated("list", self.uri(prefix)):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self._full(prefix)
            )
            for page in pages:
                for found in page.get("Contents", []):
                    yield ObjectInfo(found["Key"][start:], found["Size"])

    def get_bytes(self, key: str) -> bytes:
        """Returns an object's contents.

        Raises:
            ObjectMissingError: If there is no such object.
            StorageError: If the storage fails.
        """
        file = io.BytesIO()
        self.stream(key, file)
        return file.getvalue()

    def stream(self, key: str, file: BinaryIO) -> None:
        """Writes an object's contents into ``file``, starting again when a connection breaks.

        Ranges are not used: some servers that speak S3 do not honour them.

        Raises:
            ObjectMissingError: If there is no such object.
            StorageError: If the storage fails.
            OSError: If the disk under ``file`` does.
        """
        with translated("read", self.uri(key)):
            for attempt in range(1, _STREAM_ATTEMPTS + 1):
                try:
                    body = self.client.get_object(Bucket=self.bucket, Key=self._full(key))["Body"]
                    for chunk in body.iter_chunks(_READ_BYTES):
                        file.write(chunk)
                    return
                except STREAM_ERRORS:
                    if attempt == _STREAM_ATTEMPTS:
                        raise
                    file.seek(0)
                    file.truncate()

    def download_file(self, key: str, path: Path) -> None:
        """Writes an object to ``path``, which appears complete or not at all.

        Raises:
            ObjectMissingError: If there is no such object.
            StorageError: If the storage fails or the disk is full.
        """
        part: Path | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=f".{path.name}.", delete=False
            ) as file:
                part = Path(file.name)
                self.stream(key, file.file)  # type: ignore[arg-type]
            part.replace(path)
        except OSError as error:
            if is_full_disk(error):
                raise full_disk_error(path.parent) from error
            raise
        finally:
            if part is not None:
                part.unlink(missing_ok=True)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Writes an object in one PUT, which S3 makes visible as a whole or not at all.

        Raises:
            StorageError: If the storage fails; what was under the key before is still there.
        """
        checksum = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        with translated("write", self.uri(key)):
            self.client.put_object(
                Bucket=self.bucket,
                Key=self._full(key),
                Body=data,
                ContentMD5=checksum,
                ContentType=_content_type(key),
            )

    def put_file(self, key: str, path: Path) -> None:
        """Writes a file as an object, in parts when it is large.

        Raises:
            StorageError: If the storage fails, or holds another size than was sent.
        """
        size = path.stat().st_size
        if size <= _SINGLE_PUT_BYTES:
            self.put_bytes(key, path.read_bytes())
            return
        from boto3.s3.transfer import TransferConfig

        # Few parts at once: servers that write a stream hold early parts in memory.
        transfer = TransferConfig(
            multipart_threshold=_SINGLE_PUT_BYTES,
            multipart_chunksize=_SINGLE_PUT_BYTES,
            max_concurrency=2,
        )
        with translated("write", self.uri(key)):
            self.client.upload_file(
                str(path),
                self.bucket,
                self._full(key),
                ExtraArgs={"ContentType": _content_type(key)},
                Config=transfer,
            )
            head = self.client.head_object(Bucket=self.bucket, Key=self._full(key))
        if head["ContentLength"] != size:
            raise StorageError(
                f"{self.uri(key)} has {head['ContentLength']} bytes after {size} were sent. "
                "Fix: run again; if it stays so, use another S3 server."
            )

    def delete(self, key: str) -> None:
        """Deletes an object; does nothing when there is none."""
        with contextlib.suppress(ObjectMissingError), translated("delete", self.uri(key)):
            self.client.delete_object(Bucket=self.bucket, Key=self._full(key))

    def find(self, key: str) -> Artifact | None:
        """Returns the artifact that was committed under ``key``, or None.

        Raises:
            ArtifactCorruptError: If there is one, but its manifest is damaged or a file is
                missing or has another size.
            StorageError: If the storage fails.
        """
        manifest = read_manifest(self, key)
        return None if manifest is None else Artifact(self, key, manifest)

    def open(self, uri: str) -> Artifact:
        """Returns the artifact with this address, which may be in another bucket.

        Raises:
            InputError: If it is not an S3 address, or there is no artifact.
            ArtifactCorruptError: As in :meth:`find`.
        """
        bucket, full_key = parse_s3_uri(uri, "artifact")
        start = self._full("")
        inside = bucket == self.bucket and full_key.startswith(start)
        store = self if inside else Store(self.connection, bucket, "", self.cache)
        artifact = store.find(full_key[len(start) :] if inside else full_key)
        if artifact is None:
            raise InputError(
                "artifact",
                uri,
                "does not exist (it has no manifest.json)",
                fix="check the address; an artifact whose making was cut short does not exist",
            )
        return artifact

    def create(
        self,
        key: str,
        *,
        kind: str,
        config: Mapping[str, Any],
        parents: Mapping[str, Artifact],
        code_version: str,
        bill: Mapping[str, Any] | None = None,
    ) -> ArtifactWriter:
        """Starts an artifact; see :class:`ArtifactWriter`.

        Args:
            key: Where it goes, usually from :func:`stage_key`.
            kind: What it holds, such as ``"SearchState"``.
            config: The configuration that made it, as JSON.
            parents: The artifacts it was made from, by role.
            code_version: The digest of the code that made it.
            bill: What it cost, such as ``{"seconds": 12.5}``. Not part of the digest.
        """
        return ArtifactWriter(
            self,
            key,
            kind=kind,
            config=config,
            parents={
                role: {"uri": parent.uri, "digest": parent.digest}
                for role, parent in parents.items()
            },
            code_version=code_version,
            bill=bill or {},
        )

    def _full(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key


def connect(environ: Mapping[str, str] = os.environ) -> Store:
    """Makes the store that the environment describes; sends nothing yet.

    Args:
        environ: ``FPNAS_STORAGE`` (default ``s3://fpnas``), ``S3_ENDPOINT_URL``, the usual
            ``AWS_*`` variables, and ``FPNAS_CACHE`` or ``FPNAS_HOME`` for local copies.

    Raises:
        InputError: If a value cannot be used. :meth:`Store.check` finds what only the server
            can tell.
    """
    bucket, prefix = parse_s3_uri(environ.get("FPNAS_STORAGE") or DEFAULT_STORAGE)
    connection = Connection.from_environment(environ)
    return Store(connection, bucket, prefix, LocalCache(cache_directory(environ)))


def _content_type(key: str) -> str:
    return mimetypes.guess_type(key)[0] or "application/octet-stream"
