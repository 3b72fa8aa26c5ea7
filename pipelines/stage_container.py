"""What the container of a stage gets on this machine: user, folders, limits, GPU and environment.

As little as will do: no root, no capabilities, a root file system that cannot be written, and of
this machine's files the run's folder, the cache, and for reading the pictures and the teacher.
"""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import docker

from fpnas.data.ilsvrc import TRAIN_TAR
from fpnas.stages.config import StageConfig
from pipelines import names

_PASSED = re.compile(
    r"AWS_|MLFLOW_|OMP_|S3_ENDPOINT_URL$|FPNAS_(STORAGE|EXPERIMENT)$|\w+_proxy$", re.I
)
# Files of boto3's that are not in the container; what they say is passed on as keys.
_NOT_PASSED = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
)
_CERTIFICATES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_UNITS = {"Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
# What Podman's service may hand out: it lowers its own limit for processes to this.
_MOST = {"nofile": 1 << 20, "nproc": 1 << 15}
_NVIDIA = Path("/dev/nvidiactl")


@dataclass(frozen=True)
class Host:
    """What the container engine says of itself.

    Attributes:
        podman: Whether it is Podman behind Docker's API.
        rootless: Whether it belongs to a user other than root.
        selinux: Whether SELinux keeps containers from folders of the machine.
    """

    podman: bool = False
    rootless: bool = False
    selinux: bool = False

    @classmethod
    def of(cls, client: docker.DockerClient) -> Host:
        """Asks the engine."""
        options = [option.split(",")[0] for option in client.info().get("SecurityOptions") or []]
        parts = [part["Name"] for part in client.version().get("Components") or []]
        return cls("Podman Engine" in parts, "name=rootless" in options, "name=selinux" in options)

    def user(self) -> tuple[int, int]:
        """User and group of a container's process, as the container counts them.

        Files that it makes belong to whoever started the run. Root is nobody's choice for a stage:
        then it is the images' own user. In a rootless engine, "root" is the person who started it.
        """
        if self.rootless:
            return 0, 0
        return (os.getuid(), os.getgid()) if os.getuid() else (names.USER_ID, names.USER_ID)


def arguments(
    host: Host,
    directory: Path,
    cache: Path,
    configs: Mapping[str, StageConfig],
    variables: Mapping[str, str],
    environ: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """Arguments for docker's ``containers.create``, the same for all stages of a run.

    Args:
        host: Of the containers.
        directory: The run's folder.
        cache: For local copies of what is in S3.
        configs: Of the stages: they name pictures and teachers.
        variables: Of the environment, for stages.
        environ: This process's environment.
    """
    scratch = directory / "scratch"
    mounts = [_mount(directory), _mount(cache)]
    mounts += [_mount(path, read_only=True) for path in sorted(read(configs))]
    files = {k: Path(environ[k]).resolve() for k in _CERTIFICATES if environ.get(k)}
    mounts += [_mount(path, read_only=True) for path in sorted(set(files.values()))]
    user, group = host.user()
    security = ["no-new-privileges"]
    if host.selinux:  # relabelling somebody's pictures would be worse
        security.append("label=disable")
    return {
        "user": f"{user}:{group}",
        "mounts": mounts,
        "working_dir": str(_working_directory(directory, configs)),
        "read_only": True,
        "tmpfs": {"/tmp": "size=256m,mode=1777"},  # noqa: S108
        "cap_drop": ["ALL"],
        "security_opt": security,
        # S3 and MLflow listen on this machine's loopback interface.
        "network_mode": "host",
        "ulimits": [_limit("nofile"), _limit("nproc")],
        **_gpu(host),
        "environment": {
            **passed(environ),
            **{name: str(path) for name, path in files.items()},
            **variables,
            # Temporary files may be as large as a data set: they go to disk, not to /tmp.
            "HOME": str(scratch),
            "TMPDIR": str(scratch),
            "USER": "fpnas",
            "FPNAS_HOME": str(scratch / "fpnas"),
            "FPNAS_CACHE": str(cache),
            "TORCH_HOME": str(cache / "torch"),
            "HF_HOME": str(cache / "huggingface"),
        },
    }


def read(configs: Mapping[str, StageConfig]) -> set[Path]:
    """Files and folders of this machine that the stages read, as absolute paths."""
    return {Path(os.path.abspath(path)) for path in _named(configs) if Path(path).exists()}


def _working_directory(directory: Path, configs: Mapping[str, StageConfig]) -> Path:
    """Where relative paths hold; it is in the container when something below it is mounted."""
    relative = any(not Path(path).is_absolute() for path in _named(configs) if Path(path).exists())
    return Path.cwd() if relative else directory


def _named(configs: Mapping[str, StageConfig]) -> Iterator[str]:
    for config in configs.values():
        data = getattr(config, "data", "")
        if data and "://" not in data:
            path = Path(data).expanduser()
            # Of ILSVRC, the other archives stand beside it.
            yield str(path.parent if path.name == TRAIN_TAR else path)
        teacher = getattr(config, "teacher", "")
        if teacher.startswith("local:"):
            yield teacher.removeprefix("local:")
        if getattr(config, "teacher_classes", None):
            yield config.teacher_classes  # type: ignore[attr-defined]


def passed(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that lead a stage to S3 and MLflow; credentials among them.

    Keys in boto3's own files become variables, since a container does not have the files.
    """
    found = {
        name: value
        for name, value in environ.items()
        if _PASSED.match(name) and name not in (*_NOT_PASSED, *_CERTIFICATES)
    }
    if not environ.get("AWS_ACCESS_KEY_ID"):
        credentials = boto3.session.Session().get_credentials()
        if credentials is not None:
            frozen = credentials.get_frozen_credentials()
            found["AWS_ACCESS_KEY_ID"] = frozen.access_key or ""
            found["AWS_SECRET_ACCESS_KEY"] = frozen.secret_key or ""
            found["AWS_SESSION_TOKEN"] = frozen.token or ""
    return found


def num_bytes(quantity: str) -> int:
    """Bytes of a quantity in ``pipelines/resources.yaml``.

    >>> num_bytes("64Mi")
    67108864
    """
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


def hand_over(path: Path, user: int, group: int) -> None:
    """Gives a folder and all in it to the user of the containers; only root can, and has to."""
    if os.getuid() or not user:
        return
    for folder, _, files in os.walk(path):
        for name in (folder, *(os.path.join(folder, file) for file in files)):
            # Another run that shares the cache may remove a file in the meantime.
            with suppress(FileNotFoundError):
                if os.lstat(name).st_uid != user:
                    os.lchown(name, user, group)


def _mount(path: Path, *, read_only: bool = False) -> docker.types.Mount:
    """At the same place as outside, so that no configuration has to be translated."""
    return docker.types.Mount(str(path), str(path), type="bind", read_only=read_only)


def _limit(name: str) -> docker.types.Ulimit:
    """That of this process, as a local run has; an engine may not be able to give its default."""
    soft, hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name.upper()}"))
    most = _MOST[name]
    soft, hard = (most if value == resource.RLIM_INFINITY else value for value in (soft, hard))
    return docker.types.Ulimit(name=name, soft=min(soft, most), hard=min(hard, most))


def _gpu(host: Host) -> dict[str, Any]:
    """All GPUs of the machine, by NVIDIA's runtime or, for Podman, its CDI description."""
    if not _NVIDIA.exists():
        return {}
    if host.podman:
        wanted = docker.types.DeviceRequest(driver="cdi", device_ids=["nvidia.com/gpu=all"])
    else:
        wanted = docker.types.DeviceRequest(count=-1, capabilities=[["gpu"]])
    return {"device_requests": [wanted]}
