"""Parts of a stage's pod, as Kubernetes spells them; for engines that write the pod themselves."""

from __future__ import annotations

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
    secret = [_reference(k, "secretKeyRef", names.S3_SECRET) for k in names.S3_SECRET_KEYS]
    config = [
        _reference(k, "configMapKeyRef", names.STORAGE_CONFIG_MAP) for k in names.STORAGE_KEYS
    ]
    return [*plain, *secret, *config]


def _reference(key: str, kind: str, name: str) -> dict[str, Any]:
    return {"name": key, "valueFrom": {kind: {"name": name, "key": key}}}
