"""Where the object storage is, how to reach it, and what its errors mean."""

from __future__ import annotations

import contextlib
import errno
import http.client
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import boto3
import boto3.exceptions
import botocore.exceptions
import urllib3.exceptions
from botocore.config import Config

from fpnas.errors import InputError
from fpnas.storage.errors import ObjectMissingError, StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DEFAULT_STORAGE = "s3://fpnas"

MISSING_CODES = frozenset({"404", "NoSuchKey", "NotFound"})
_WRONG_KEY_CODES = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidToken",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
    }
)
_NO_CREDENTIALS = (
    botocore.exceptions.NoCredentialsError,
    botocore.exceptions.PartialCredentialsError,
    botocore.exceptions.CredentialRetrievalError,
)
_SET_KEYS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN with temporary keys) "
    "to keys of this server"
)
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)

# What reading a body can raise when the connection breaks in the middle of it.
STREAM_ERRORS = (
    botocore.exceptions.ReadTimeoutError,
    botocore.exceptions.ResponseStreamingError,
    botocore.exceptions.IncompleteReadError,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ConnectionError,
)


@dataclass(frozen=True)
class Connection:
    """How to reach an S3 endpoint. Can be pickled; its text never shows the secrets.

    Attributes:
        endpoint: The endpoint's URL, or None for AWS.
        region: The region that requests are signed for.
        access_key_id: With None, boto3 looks for credentials in its usual places (a shared
            credentials file, a role of the machine or of the pod).
        secret_access_key: Belongs to ``access_key_id``.
        session_token: Set with temporary credentials only.
    """

    endpoint: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Connection:
        """Reads the standard variables, with ``S3_ENDPOINT_URL`` for the endpoint."""
        return cls(
            endpoint=environ.get("S3_ENDPOINT_URL") or environ.get("AWS_ENDPOINT_URL_S3") or None,
            region=environ.get("AWS_DEFAULT_REGION") or environ.get("AWS_REGION") or "us-east-1",
            access_key_id=environ.get("AWS_ACCESS_KEY_ID") or None,
            secret_access_key=environ.get("AWS_SECRET_ACCESS_KEY") or None,
            session_token=environ.get("AWS_SESSION_TOKEN") or None,
        )

    def client(self, max_attempts: int = 5) -> S3Client:
        """Makes a client.

        Args:
            max_attempts: How often a request is sent before it fails, with pauses that double
                up to 8 s. Five bridges a restart of the server; a check asks for two.

        Returns:
            A client that is not shared with anything; it must not cross a fork.

        Raises:
            InputError: If the endpoint is not a URL.
        """
        try:
            return boto3.session.Session().client(
                "s3",
                endpoint_url=self.endpoint,
                region_name=self.region,
                aws_access_key_id=self.access_key_id,
                aws_secret_access_key=self.secret_access_key,
                aws_session_token=self.session_token,
                config=Config(
                    connect_timeout=3,
                    read_timeout=60,
                    retries={"mode": "standard", "total_max_attempts": max_attempts},
                    # A name for each bucket under the host needs DNS that own servers lack.
                    s3={"addressing_style": "path" if self.endpoint else "auto"},
                    # boto3's default sends checksums as trailers, which not every S3 server
                    # understands. We send Content-MD5 and verify sha256 when reading.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                ),
            )
        except ValueError as error:
            raise InputError(
                "S3_ENDPOINT_URL",
                self.endpoint,
                f"is not usable ({error})",
                legal="http://HOST:PORT or https://HOST[:PORT]",
                fix="correct it, or unset it to use AWS",
            ) from None


def parse_s3_uri(uri: str, field_name: str = "FPNAS_STORAGE") -> tuple[str, str]:
    """Splits ``s3://bucket/some/prefix`` into bucket and prefix, without slashes at the ends.

    Raises:
        InputError: If it is not such a URI.
    """
    scheme, separator, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not separator or not bucket:
        raise InputError(
            field_name,
            uri,
            "is not an S3 place",
            legal="s3://BUCKET or s3://BUCKET/PREFIX",
            fix=f"set {field_name}={DEFAULT_STORAGE}, or name a bucket of yours",
        )
    return bucket, prefix.strip("/")


def error_code(error: botocore.exceptions.ClientError) -> str:
    """Returns S3's code for an error, such as ``NoSuchKey``, or the HTTP status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def is_full_disk(error: BaseException) -> bool:
    """Tells whether an error means that a local disk or quota is full."""
    # safetensors reports the operating system's errors as text.
    return (isinstance(error, OSError) and error.errno in _FULL_DISK) or "os error 28" in str(error)


def full_disk_error(path: Path) -> StorageError:
    """Makes the error for a full local disk."""
    return StorageError(
        f"The disk that holds {path} is full; nothing was committed. Fix: free space there, or "
        "set FPNAS_HOME (or FPNAS_CACHE) to a folder on a larger disk, and run again."
    )


@contextlib.contextmanager
def translated(action: str, uri: str) -> Iterator[None]:
    """Turns the errors of boto3 into ours, which name the object and say what to do.

    Raises:
        ObjectMissingError: If the object is not there.
        StorageError: For everything else that the storage or the connection did.
    """
    try:
        yield
    except botocore.exceptions.ClientError as error:
        if error_code(error) in MISSING_CODES:
            raise ObjectMissingError(f"{uri} does not exist ({action}).") from error
        raise _storage_error(action, uri, error) from error
    except (
        botocore.exceptions.BotoCoreError,
        boto3.exceptions.Boto3Error,
        *STREAM_ERRORS,
    ) as error:
        raise _storage_error(action, uri, error) from error


def _storage_error(action: str, uri: str, error: Exception) -> StorageError:
    # Keys that expire are no bad input: with new ones the same command goes on.
    fix = "see that the storage answers and has space (`fpnas doctor` checks it)"
    return StorageError(
        f"Could not {action} {uri}: {error}. Fix: {_SET_KEYS if _is_of_keys(error) else fix}, "
        "then run again: finished work is kept."
    )


def _is_of_keys(error: BaseException | None) -> bool:
    """Tells whether the storage refused the keys, or there are none."""
    while error is not None:
        if isinstance(error, _NO_CREDENTIALS):
            return True
        if isinstance(error, botocore.exceptions.ClientError):
            return error_code(error) in _WRONG_KEY_CODES
        error = error.__context__  # boto3's transfers raise an error of their own
    return False


def raise_check_error(
    error: Exception, connection: Connection, bucket: str, action: str
) -> NoReturn:
    """Raises the InputError that says what a failed check of the storage means.

    Args:
        error: What boto3 raised.
        connection: What was checked.
        bucket: The bucket that was checked.
        action: What was being tried, such as ``write objects``.
    """
    if isinstance(error, botocore.exceptions.ClientError):
        raise _refusal(error_code(error), connection, bucket, action) from error
    if isinstance(error, _NO_CREDENTIALS):
        raise InputError(
            "AWS_ACCESS_KEY_ID",
            "(hidden)" if connection.access_key_id else "(not set)",
            "gives no complete credentials for S3",
            fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from error
    raise InputError(
        "S3_ENDPOINT_URL",
        connection.endpoint or "(not set: AWS)",
        f"does not answer as S3 ({type(error).__name__})",
        fix="start the server or correct the address; with S3_ENDPOINT_URL unset `fpnas run` "
        "starts its own storage on this machine",
    ) from error


def _refusal(code: str, connection: Connection, bucket: str, action: str) -> InputError:
    storage = f"s3://{bucket}"
    if code in _WRONG_KEY_CODES:
        return InputError(
            "AWS_ACCESS_KEY_ID",
            "(hidden)",
            f"was refused by {connection.endpoint or 'AWS'} ({code})",
            fix=_SET_KEYS,
        )
    if code in ("NoSuchBucket", "404"):
        option = f" --endpoint-url {connection.endpoint}" if connection.endpoint else ""
        return InputError(
            "FPNAS_STORAGE",
            storage,
            "names a bucket that does not exist",
            fix=f"create it with `aws s3 mb {storage}{option}`, or set FPNAS_STORAGE to "
            "s3://BUCKET[/PREFIX] of an existing one",
        )
    return InputError(
        "FPNAS_STORAGE",
        storage,
        f"does not let these credentials {action} ({code})",
        fix="allow s3:ListBucket, s3:GetObject, s3:PutObject and s3:DeleteObject there, and see "
        "that the server has space left",
    )
