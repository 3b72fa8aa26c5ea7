"""What a stage gets on a cluster: the table ``resources.yaml``, checked, with a profile over it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from fpnas.errors import InputError, closest
from fpnas.stages.base import ALL_STAGES
from fpnas.stages.config import StageConfig, Strict, num_processes

POOL_LABEL = "fpnas.io/pool"
"""Label of a node that says which pool it belongs to."""

_OTHERS = ("pools", "priorities", "launcher")
_TABLE = Path(__file__).with_name("resources.yaml")

Cpu = Annotated[str, BeforeValidator(str), Field(pattern=r"^([1-9]\d*|\d+\.\d+|[1-9]\d*m)$")]
Bytes = Annotated[str, BeforeValidator(str), Field(pattern=r"^[1-9]\d*(Mi|Gi|Ti)$")]


class Taint(Strict):
    """A taint of a pool's nodes, which the pods of its stages tolerate."""

    key: str
    value: str
    effect: Literal["NoSchedule", "NoExecute"] = "NoSchedule"


class Pool(Strict):
    """A node pool.

    Attributes:
        gpu_resource: What its GPUs are counted by; None for a pool without.
        taints: Of its nodes.
    """

    gpu_resource: str | None = None
    taints: tuple[Taint, ...] = ()


class Retries(Strict):
    """How often, and after how long, a failed pod is tried again.

    Attributes:
        limit: Most tries after the first one.
        backoff_seconds: Wait before the first of them.
        factor: Of every further wait.
        max_seconds: Longest wait.
    """

    limit: int = Field(default=5, ge=0)
    backoff_seconds: int = Field(default=30, ge=1)
    factor: int = Field(default=2, ge=1)
    max_seconds: int = Field(default=1800, ge=1)


class Resources(Strict):
    """What one stage gets.

    Attributes:
        cpu: Cores.
        memory: Of the pod, shared memory included.
        scratch: Local disk for caches and temporary files; requested from the node as ephemeral
            storage, but by the engine kfp, which can only set an upper limit.
        shared_memory: Size of ``/dev/shm``, through which loaders and ranks hand tensors over.
        nodes: Pods that share the stage's processes; more than one are a TrainJob's, and what is
            said here is of each of them.
        gpus: How many.
        gpu_product: Which GPU, as NVIDIA's feature discovery labels nodes, such as
            ``NVIDIA-H100-80GB-HBM3``; None takes any.
        pool: The node pool.
        timeout_seconds: Of one try.
        retries: After a failed try.
        priority: One of the table's ``priorities``; None counts as 0.
        grace_seconds: Between SIGTERM and SIGKILL; a checkpoint is written in it. Of the engine
            argo; KFP has no such option.
    """

    cpu: Cpu
    memory: Bytes
    scratch: Bytes
    shared_memory: Bytes
    nodes: int = Field(default=1, ge=1)
    gpus: int = Field(default=0, ge=0)
    gpu_product: str | None = None
    pool: str = "cpu"
    timeout_seconds: int = Field(ge=60)
    retries: Retries = Retries()
    priority: str | None = None
    grace_seconds: int = Field(default=120, ge=1)


class Launcher(Strict):
    """What the pod gets that starts a stage's TrainJob and waits for it.

    Attributes:
        cpu: Cores.
        memory: Of the pod.
        scratch: Local disk.
        shared_memory: Size of ``/dev/shm``.
        pool: The node pool.
        queue_seconds: How long the TrainJob may wait for its nodes.
    """

    cpu: Cpu
    memory: Bytes
    scratch: Bytes
    shared_memory: Bytes
    pool: str = "cpu"
    queue_seconds: int = Field(ge=0)


class ResourceTable(Strict):
    """The pools, and what each stage gets.

    Attributes:
        pools: By name.
        priorities: Kueue's workload priority classes that the cluster has.
        stages: By name.
        launcher: Of a stage on several nodes.
    """

    pools: Mapping[str, Pool]
    priorities: tuple[str, ...]
    stages: Mapping[str, Resources]
    launcher: Launcher

    def task(self, stage: str) -> Resources:
        """What the task of a stage gets: the stage's own, or its launcher's."""
        own = self.stages[stage]
        if own.nodes == 1:
            return own
        small = self.launcher.model_dump(exclude={"queue_seconds"})
        seconds = own.timeout_seconds + self.launcher.queue_seconds
        single = {"nodes": 1, "gpus": 0, "gpu_product": None, "timeout_seconds": seconds}
        return own.model_copy(update={**small, **single})

    def pool(self, own: Resources) -> Pool:
        """The pool that a pod runs in."""
        return self.pools[own.pool]

    def node_selector(self, own: Resources) -> dict[str, str]:
        """Labels of the nodes that a pod may run on."""
        product = {"nvidia.com/gpu.product": own.gpu_product} if own.gpu_product else {}
        return {POOL_LABEL: own.pool, **product}


def load_resources(section: Mapping[str, Any]) -> ResourceTable:
    """Loads the table and puts a profile's section ``resources`` over it.

    Args:
        section: What changes, by stage; ``pools`` adds pools, ``priorities`` replaces
            the list, ``launcher`` is of several nodes.

    Raises:
        InputError: An unknown stage, pool or key, or a value that Kubernetes would not take.
    """
    table = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    for name, changes in section.items():
        if name not in _OTHERS and name not in ALL_STAGES:
            raise InputError(
                f"resources.{name}",
                changes,
                "is not a stage",
                legal=", ".join([*ALL_STAGES, *_OTHERS]),
                fix=closest(name, ALL_STAGES),
            )
        target = table[name] if name in _OTHERS else table["stages"][name]
        if isinstance(target, list):
            table[name] = changes
        else:
            _merge(target, changes, f"resources.{name}")
    try:
        loaded = ResourceTable.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        loc = [str(part) for part in first["loc"] if part != "stages"]
        raise InputError(
            ".".join(["resources", *loc]),
            first.get("input"),
            f"is wrong: {first['msg']}",
            fix="see pipelines/resources.yaml for the keys and their units",
        ) from error
    for name in loaded.stages:
        _check_pool(loaded, name, loaded.stages[name])
        _check_priority(loaded, name)
        if loaded.stages[name].nodes > 1:
            _check_pool(loaded, "launcher", loaded.task(name))
    return loaded


def check_processes(table: ResourceTable, configs: Mapping[str, StageConfig]) -> None:
    """Checks that a stage's processes fill its nodes: one for each GPU, and no node left idle.

    Raises:
        InputError: Otherwise.
    """
    for name, config in configs.items():
        gpus, nodes = table.stages[name].gpus, table.stages[name].nodes
        processes, field = num_processes(config)
        if nodes > 1 and (processes < nodes or processes % nodes):
            raise InputError(
                f"resources.{name}.nodes",
                nodes,
                f"does not divide the {processes} process(es) of the stage",
                fix=f"--set {name}.{field}={nodes * max(1, gpus)}" if field else "use one node",
            )
        if gpus in (0, processes // nodes):
            continue
        fix = f"--set resources.{name}.gpus={processes // nodes}"
        if field:
            fix += f" or --set {name}.{field}={nodes * gpus}"
        problem = f"does not go with {processes // nodes} process(es) of the stage on a node"
        raise InputError(f"resources.{name}.gpus", gpus, problem, fix=fix)


def _merge(target: dict[str, Any], changes: Any, field: str) -> None:
    if not isinstance(changes, Mapping):
        raise InputError(field, changes, "is not a mapping", fix="write key: value lines")
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(target.setdefault(key, {}), dict):
            _merge(target[key], value, f"{field}.{key}")
        else:
            target[key] = value


def _check_pool(table: ResourceTable, name: str, own: Resources) -> None:
    if own.pool not in table.pools:
        raise InputError(
            f"resources.{name}.pool",
            own.pool,
            "is not a node pool",
            legal=", ".join(table.pools),
            fix=closest(own.pool, table.pools),
        )
    has_gpus = table.pools[own.pool].gpu_resource is not None
    if has_gpus != (own.gpus > 0):
        problem = "needs at least one GPU" if has_gpus else f"has none of {own.gpus} GPU(s)"
        legal = [key for key, pool in table.pools.items() if bool(pool.gpu_resource) != has_gpus]
        raise InputError(
            f"resources.{name}.pool",
            own.pool,
            problem,
            fix=f"set gpus, or the pool to {' or '.join(legal)}",
        )


def _check_priority(table: ResourceTable, stage: str) -> None:
    priority = table.stages[stage].priority
    if priority is not None and priority not in table.priorities:
        raise InputError(
            f"resources.{stage}.priority",
            priority,
            "is no priority class",
            legal=", ".join(table.priorities),
            fix=f"{closest(priority, table.priorities)}, or add the cluster's own to "
            "resources.priorities",
        )
