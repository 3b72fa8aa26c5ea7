"""Parts of a stage's pod, as Kubernetes spells them; for engines that write the pod themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipelines import names
from pipelines.resources import Resources, ResourceTable

POD_SECURITY: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": names.USER_ID,
    "runAsGroup": names.USER_ID,
    "fsGroup": names.USER_ID,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
VOLUME_MOUNTS: list[dict[str, Any]] = [
    {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
    {"name": "scratch", "mountPath": names.SCRATCH},
    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
]


def size(table: ResourceTable, own: Resources) -> dict[str, Any]:
    """Requests and limits, which are equal.

    Scratch is ephemeral storage of the node, which schedulers and queues count by requests alone.
    """
    amounts = {"cpu": own.cpu, "memory": own.memory, "ephemeral-storage": own.scratch}
    gpu_resource = table.pool(own).gpu_resource
    if gpu_resource:
        amounts[gpu_resource] = str(own.gpus)
    return {"requests": amounts, "limits": amounts}


def tolerations(table: ResourceTable, own: Resources) -> list[dict[str, Any]]:
    """Of the taints of the pool's nodes."""
    return [{**taint.model_dump(), "operator": "Equal"} for taint in table.pool(own).taints]


def volumes(own: Resources) -> list[dict[str, Any]]:
    """Shared memory, scratch space, and ``/tmp`` for what does not ask where it may write."""
    return [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": own.shared_memory}},
        {"name": "scratch", "emptyDir": {"sizeLimit": own.scratch}},
        {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
    ]


def environment() -> list[dict[str, Any]]:
    """Where a stage may write, the storage and its keys, which are a secret's."""
    plain = [{"name": key, "value": value} for key, value in names.SCRATCH_VARIABLES.items()]
    secret = _references(
        "secretKeyRef", names.S3_SECRET, names.S3_SECRET_KEYS, names.OPTIONAL_S3_SECRET_KEYS
    )
    config = _references(
        "configMapKeyRef",
        names.STORAGE_CONFIG_MAP,
        names.STORAGE_KEYS,
        names.OPTIONAL_STORAGE_KEYS,
    )
    return [*plain, *secret, *config]


def _references(
    kind: str, name: str, keys: Sequence[str], optional: Sequence[str]
) -> list[dict[str, Any]]:
    """Variables that have the names of their keys in a secret or a config map."""
    sources: list[dict[str, Any]] = [{"name": name, "key": key} for key in keys]
    sources += [{"name": name, "key": key, "optional": True} for key in optional]
    return [{"name": source["key"], "valueFrom": {kind: source}} for source in sources]
