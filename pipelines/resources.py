"""What a stage gets on a cluster: the table ``resources.yaml``, checked, with a profile over it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from fpnas.errors import InputError, closest
from fpnas.stages.base import ALL_STAGES
from fpnas.stages.config import StageConfig, Strict

POOL_LABEL = "fpnas.io/pool"
"""Label of a node that says which pool it belongs to."""

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
        scratch: Local disk for caches and temporary files.
        shared_memory: Size of ``/dev/shm``, through which loaders and ranks hand tensors over.
        gpus: How many.
        gpu_product: Which GPU, as NVIDIA's feature discovery labels nodes, such as
            ``NVIDIA-H100-80GB-HBM3``; None takes any.
        pool: The node pool.
        timeout_seconds: Of one try.
        retries: After a failed try.
        priority: A workload priority class of Kueue; None takes the queue's default.
        grace_seconds: Between SIGTERM and SIGKILL; a checkpoint is written in it. Of the engine
            argo; KFP has no such option.
    """

    cpu: Cpu
    memory: Bytes
    scratch: Bytes
    shared_memory: Bytes
    gpus: int = Field(default=0, ge=0)
    gpu_product: str | None = None
    pool: str = "cpu"
    timeout_seconds: int = Field(ge=60)
    retries: Retries = Retries()
    priority: str | None = None
    grace_seconds: int = Field(default=120, ge=1)


class ResourceTable(Strict):
    """The pools, and what each stage gets."""

    pools: Mapping[str, Pool]
    stages: Mapping[str, Resources]

    def pool(self, stage: str) -> Pool:
        """The pool that a stage runs in."""
        return self.pools[self.stages[stage].pool]

    def node_selector(self, stage: str) -> dict[str, str]:
        """Labels of the nodes that a stage may run on."""
        own = self.stages[stage]
        product = {"nvidia.com/gpu.product": own.gpu_product} if own.gpu_product else {}
        return {POOL_LABEL: own.pool, **product}


def load_resources(section: Mapping[str, Any]) -> ResourceTable:
    """Loads the table and puts a profile's section ``resources`` over it.

    Args:
        section: What changes, by stage; ``pools`` adds pools.

    Raises:
        InputError: An unknown stage, pool or key, or a value that Kubernetes would not take.
    """
    table = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    for name, changes in section.items():
        if name != "pools" and name not in ALL_STAGES:
            raise InputError(
                f"resources.{name}",
                changes,
                "is not a stage",
                legal=", ".join([*ALL_STAGES, "pools"]),
                fix=closest(name, ALL_STAGES),
            )
        target = table["pools"] if name == "pools" else table["stages"][name]
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
        _check_pool(loaded, name)
    return loaded


def check_processes(table: ResourceTable, configs: Mapping[str, StageConfig]) -> None:
    """Checks that a stage has a GPU for each of its processes, and none that it leaves idle.

    Raises:
        InputError: Otherwise.
    """
    for name, config in configs.items():
        gpus = table.stages[name].gpus
        holder = next((h for h in (config, config.runtime) if hasattr(h, "num_processes")), None)
        processes = getattr(holder, "num_processes", 1)
        if gpus in (0, processes):
            continue
        fix = f"--set resources.{name}.gpus={processes}"
        if holder is not None:
            section = name if holder is config else f"{name}.runtime"
            fix += f" or --set {section}.num_processes={gpus}"
        problem = f"does not go with {processes} process(es) of the stage"
        raise InputError(f"resources.{name}.gpus", gpus, problem, fix=fix)


def _merge(target: dict[str, Any], changes: Any, field: str) -> None:
    if not isinstance(changes, Mapping):
        raise InputError(field, changes, "is not a mapping", fix="write key: value lines")
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(target.setdefault(key, {}), dict):
            _merge(target[key], value, f"{field}.{key}")
        else:
            target[key] = value


def _check_pool(table: ResourceTable, stage: str) -> None:
    own = table.stages[stage]
    if own.pool not in table.pools:
        raise InputError(
            f"resources.{stage}.pool",
            own.pool,
            "is not a node pool",
            legal=", ".join(table.pools),
            fix=closest(own.pool, table.pools),
        )
    has_gpus = table.pools[own.pool].gpu_resource is not None
    if has_gpus != (own.gpus > 0):
        problem = "needs at least one GPU" if has_gpus else f"has none of {own.gpus} GPU(s)"
        legal = [name for name, pool in table.pools.items() if bool(pool.gpu_resource) != has_gpus]
        raise InputError(
            f"resources.{stage}.pool",
            own.pool,
            problem,
            fix=f"set gpus, or the pool to {' or '.join(legal)}",
        )
