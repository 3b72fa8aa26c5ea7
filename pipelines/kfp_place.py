"""Gives KFP's tasks what the table of resources says."""

from __future__ import annotations

from typing import Any

from kfp import dsl, kubernetes

from pipelines import names
from pipelines.compile import Compilable
from pipelines.definition import Place
from pipelines.resources import Resources, ResourceTable
from pipelines.train_job import train_job_variables


def placer(plan: Compilable) -> Place:
    """Returns what places a task, to be called while the pipeline is built."""
    table = plan.resources

    def place(stage: str, task: dsl.PipelineTask) -> None:
        # A stage finds its own result by a key that covers its code; KFP's key does not.
        task.set_caching_options(enable_caching=False)
        own = table.task(stage)
        _size(task, table, own)
        _choose_nodes(task, table, own)
        _environment(task)
        job = train_job_variables(stage, task.container_spec.image, plan)
        for key, value in job.values.items():
            task.set_env_variable(key, value)
        for key, path in job.fields.items():
            kubernetes.use_field_path_as_env(task, key, path)
        for key, value in names.pod_labels(stage, own.priority).items():
            kubernetes.add_pod_label(task, key, value)

    return place


def _size(task: Any, table: ResourceTable, own: Resources) -> None:
    task.set_cpu_request(own.cpu).set_cpu_limit(own.cpu)
    task.set_memory_request(own.memory).set_memory_limit(own.memory)
    if own.gpus:
        task.set_accelerator_type(table.pool(own).gpu_resource)
        task.set_accelerator_limit(own.gpus)
    kubernetes.empty_dir_mount(
        task,
        "shm",
        "/dev/shm",  # noqa: S108
        medium="Memory",
        size_limit=own.shared_memory,
    )
    kubernetes.empty_dir_mount(task, "scratch", names.SCRATCH, size_limit=own.scratch)
    kubernetes.set_timeout(task, own.timeout_seconds)
    task.set_retry(
        num_retries=own.retries.limit,
        backoff_duration=f"{own.retries.backoff_seconds}s",
        backoff_factor=own.retries.factor,
        backoff_max_duration=f"{own.retries.max_seconds}s",
    )


def _choose_nodes(task: Any, table: ResourceTable, own: Resources) -> None:
    for key, value in table.node_selector(own).items():
        kubernetes.add_node_selector(task, key, value)
    for taint in table.pool(own).taints:
        kubernetes.add_toleration(
            task, key=taint.key, operator="Equal", value=taint.value, effect=taint.effect
        )


def _environment(task: Any) -> None:
    for key, value in names.SCRATCH_VARIABLES.items():
        task.set_env_variable(key, value)
    for optional, keys, config_keys in (
        (False, names.S3_SECRET_KEYS, names.STORAGE_KEYS),
        (True, names.OPTIONAL_S3_SECRET_KEYS, names.OPTIONAL_STORAGE_KEYS),
    ):
        kubernetes.use_secret_as_env(task, names.S3_SECRET, {k: k for k in keys}, optional)
        kubernetes.use_config_map_as_env(
            task, names.STORAGE_CONFIG_MAP, {k: k for k in config_keys}, optional
        )
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_security_context(
        task, run_as_user=names.USER_ID, run_as_group=names.USER_ID, run_as_non_root=True
    )
