"""The services that a single machine starts for itself: S3 over a folder, and MLflow's UI."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fpnas.errors import FpnasError, InputError
from fpnas.storage import connect

_START_SECONDS = {"rclone": 30.0, "mlflow": 120.0}
_STOP_SECONDS = 5.0
_PORT_ATTEMPTS = 5
_STALE_UPLOAD_SECONDS = 3600.0

# The service must die with us even when we are killed with -9. Its standard input is a pipe
# whose other end we hold: at its end a watcher ends the group. (Linux's parent-death signal
# would come when the THREAD that started it ends.) `exec` makes the service our own child.
_SUPERVISED = (
    'exec 3<&0; (cat <&3 >/dev/null; kill -s TERM -- -$$) & exec "$0" "$@" 3<&- </dev/null'
)


class ServiceError(FpnasError):
    """A service that this program starts did not come up."""


@dataclass(frozen=True)
class LocalS3:
    """A running S3 endpoint on this machine.

    Attributes:
        endpoint: Its URL.
        environment: The variables that lead boto3, MLflow and this program to it.
        pid: Its process.
        log: Where it writes what happens.
    """

    endpoint: str
    environment: Mapping[str, str]
    pid: int
    log: Path

    def __repr__(self) -> str:
        return f"LocalS3(endpoint={self.endpoint!r}, pid={self.pid})"  # no credentials


@dataclass(frozen=True)
class MlflowServer:
    """A running MLflow server on this machine: its URL, its process and its log."""

    url: str
    pid: int
    log: Path


def check_port_free(field: str, port: int) -> None:
    """Checks that a server on this machine could listen on a port.

    Args:
        field: The name the user knows the port by, such as ``S3_PORT``.
        port: The port.

    Raises:
        InputError: If it is not a port, or it is taken.
    """
    if not 1 <= port <= 65535:
        raise InputError(
            field, port, "is not a port", legal="1 to 65535", fix="choose another number"
        )
    with socket.socket() as listener:
        # As servers do: a connection that has just closed does not make a port taken.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                field,
                port,
                f"cannot be listened on ({error.strerror})",
                legal="a port from 1024 to 65535 that nothing else uses",
                fix=f"stop what uses it (`ss -ltnp 'sport = :{port}'` shows it) or choose another "
                f"{field}",
            ) from None


def find_rclone() -> str | None:
    """Returns the path of rclone: the installed package's, else one on PATH, else None."""
    packaged = Path(sysconfig.get_path("scripts")) / "rclone"
    return str(packaged) if os.access(packaged, os.X_OK) else shutil.which("rclone")


@contextlib.contextmanager
def local_s3(
    home: Path, port: int | None = None, environ: Mapping[str, str] = os.environ
) -> Iterator[LocalS3]:
    """Serves ``<home>/s3`` as S3 on the loopback interface while the block runs.

    The credentials are random, made once for each home, in ``<home>/credentials.json`` that only
    the user can read; requests without them are refused. Several processes may serve one home
    at a time; what one writes the others see within 50 ms.

    Args:
        home: The folder for local state; made when it is not there.
        port: Where to listen; None picks a free port.
        environ: ``FPNAS_STORAGE`` names the bucket, which is created.

    Yields:
        The endpoint and the variables that lead to it.

    Raises:
        InputError: Naming S3_PORT if the port is taken, or rclone if it is not installed.
        ServiceError: If it does not come up.
    """
    rclone = find_rclone()
    if rclone is None:
        raise InputError(
            "rclone",
            "(not found)",
            "is needed to serve S3 on this machine",
            fix="install it with `pip install 'fpnas[local]'`, or set S3_ENDPOINT_URL to a server",
        )
    if port is not None:
        check_port_free("S3_PORT", port)
    home = home.absolute()
    folder = home / "s3"
    folder.mkdir(parents=True, exist_ok=True)
    _sweep_uploads(folder)
    key_id, secret = _credentials(home / "credentials.json")
    log = home / "logs" / f"s3-{os.getpid()}.log"
    with _serve_s3(rclone, folder, port, f"{key_id},{secret}", log) as (process, endpoint):
        environment = {
            "S3_ENDPOINT_URL": endpoint,
            "MLFLOW_S3_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": key_id,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_SESSION_TOKEN": "",  # one meant for AWS must not be sent with our keys
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        connect({**environ, **environment}).create_bucket()
        yield LocalS3(endpoint, environment, process.pid, log)


@contextlib.contextmanager
def mlflow_server(
    home: Path, port: int | None = None, environ: Mapping[str, str] = os.environ
) -> Iterator[MlflowServer]:
    """Runs MLflow's server and UI over ``<home>/mlflow.db`` while the block runs.

    Args:
        home: The folder for local state.
        port: Where to listen; None picks a free port.
        environ: Leads the server to S3 (see :class:`LocalS3`); ``FPNAS_STORAGE`` says where
            artifacts are.

    Raises:
        InputError: Naming MLFLOW_PORT if the port is taken.
        ServiceError: If it does not come up.
    """
    if port is None:
        port = _free_port()
    check_port_free("MLFLOW_PORT", port)
    log = home / "logs" / f"mlflow-{os.getpid()}.log"
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{home.absolute() / 'mlflow.db'}"),
        *("--artifacts-destination", connect(environ).uri("mlflow")),
    ]
    endpoint = environ.get("S3_ENDPOINT_URL", "")
    extra = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **({"MLFLOW_S3_ENDPOINT_URL": endpoint} if endpoint else {}),
    }
    with _supervised(command, {**environ, **extra}, log) as process:
        if not _wait_for_port(process, port, _START_SECONDS["mlflow"]):
            raise _did_not_start("MLflow's server", log)
        yield MlflowServer(f"http://127.0.0.1:{port}", process.pid, log)


@contextlib.contextmanager
def _serve_s3(
    rclone: str, folder: Path, port: int | None, auth_key: str, log: Path
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RCLONE_")}
    # By environment: arguments can be seen by every user of the machine.
    environ["RCLONE_AUTH_KEY"] = f'"{auth_key}"'
    for _ in range(1 if port else _PORT_ATTEMPTS):
        chosen = port or _free_port()
        command = [
            *(rclone, "serve", "s3", "--addr", f"127.0.0.1:{chosen}", "--config", os.devnull),
            # Other processes may write to the folder. At 0 rclone spins in a loop.
            *("--dir-cache-time", "50ms", str(folder)),
        ]
        with _supervised(command, environ, log) as process:
            if _wait_for_port(process, chosen, _START_SECONDS["rclone"]):
                yield process, f"http://127.0.0.1:{chosen}"
                return
    raise _did_not_start("rclone", log)


@contextlib.contextmanager
def _supervised(
    command: list[str], environ: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a command whose whole process group ends with the block, or with this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603
            ["/bin/sh", "-c", _SUPERVISED, *command],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environ),
            # Control-C in the terminal must not end it before we have written a checkpoint.
            start_new_session=True,
        )
    owner = os.getpid()
    try:
        yield process
    finally:
        if os.getpid() == owner:  # a fork that unwinds must not end its parent's service
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _wait_for_port(process: subprocess.Popen[bytes], port: int, limit_seconds: float) -> bool:
    """Waits until the process listens; False when it ended or took too long."""
    end = time.monotonic() + limit_seconds
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            # Another process may have the port: ours then ends at once.
            time.sleep(0.05)
            return process.poll() is None
        time.sleep(0.02)
    return False


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _credentials(path: Path) -> tuple[str, str]:
    """Reads the machine's own S3 credentials, making them on the first call."""
    if not path.exists():
        made = {
            "access_key_id": f"fpnas{secrets.token_hex(8)}",
            "secret_access_key": secrets.token_hex(24),
        }
        draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(made, file)
        # A link, not a rename: of two processes that start at once, both use the first's.
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    path.chmod(0o600)
    try:
        stored = json.loads(path.read_text())
        return str(stored["access_key_id"]), str(stored["secret_access_key"])
    except (ValueError, KeyError, TypeError):
        raise InputError(
            "FPNAS_HOME",
            path,
            "does not hold credentials",
            fix="delete that file; new ones are made, and the stored objects stay",
        ) from None


def _sweep_uploads(folder: Path) -> None:
    """Removes what uploads that were killed have left; rclone hides it but never removes it."""
    oldest = time.time() - _STALE_UPLOAD_SECONDS
    for left in folder.rglob(".rclone_temp_put_*"):
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < oldest:
                left.unlink()


def _did_not_start(what: str, log: Path) -> ServiceError:
    tail = " / ".join(log.read_text(errors="replace").splitlines()[-5:])
    return ServiceError(f"{what} did not start. Its log, {log}, ends: {tail or '(empty)'}")
