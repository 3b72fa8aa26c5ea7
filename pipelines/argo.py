"""The pipeline as a WorkflowTemplate, for clusters that have Argo Workflows and no Kubeflow.

The graph is that of the one definition; a task is ``fpnas stage`` in the stage's image. Between
tasks go addresses of artifacts, as parameters: the artifacts themselves go through S3.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

import yaml

from fpnas.packages import require
from pipelines import names
from pipelines.compile import Compilable
from pipelines.graph import Node, pipeline_graph
from pipelines.resources import ResourceTable

_CONFIG, _RUN, _ARTIFACT = "/tmp/config.json", "/tmp/run.json", "/tmp/artifact"  # noqa: S108


def workflow_template(plan: Compilable) -> str:
    """Returns the YAML of the plan's WorkflowTemplate, with its configurations as defaults.

    Raises:
        InputError: hera, which checks the fields, is not installed.
    """
    require("hera", extra="argo")
    manifest = checked(_manifest(plan, pipeline_graph(plan.pipeline)))
    # Through JSON, so that no two places are one object, which YAML would write as an alias.
    return yaml.safe_dump(json.loads(json.dumps(manifest)), sort_keys=False)


def checked(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns the manifest if Argo has all of its fields.

    Argo ignores fields that it does not know, and so do hera's models: what does not come back
    from them was misspelt.

    Raises:
        ValueError: Naming the fields that Argo does not have.
        pydantic.ValidationError: A field has a value of the wrong type.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hera's models
        from hera.workflows.models import WorkflowTemplate

        model = WorkflowTemplate.model_validate(manifest)
        back = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    lost = sorted(set(_leaves(manifest)) - set(_leaves(back)))
    if lost:
        raise ValueError(f"Argo's WorkflowTemplate has no such fields: {', '.join(lost)}")
    return manifest


def _leaves(value: Any, path: str = "") -> list[str]:
    """Every path of an object with what stands there."""
    if isinstance(value, Mapping):
        return [leaf for key, v in value.items() for leaf in _leaves(v, f"{path}.{key}")]
    if isinstance(value, list):
        return [leaf for i, v in enumerate(value) for leaf in _leaves(v, f"{path}[{i}]")]
    return [f"{path.lstrip('.')}={value}"]


def template_name(run_id: str) -> str:
    """A name that Kubernetes takes."""
    return "fpnas-" + re.sub(r"[^a-z0-9-]+", "-", run_id.lower()).strip("-")


def _manifest(plan: Compilable, graph: Mapping[str, Node]) -> dict[str, Any]:
    parameters = [{"name": key, "value": value} for key, value in plan.parameters().items()]
    labels = {names.RUN_LABEL: template_name(plan.info.run_id)}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "WorkflowTemplate",
        "metadata": {
            "name": template_name(plan.info.run_id),
            "namespace": names.NAMESPACE,
            "labels": labels,
        },
        "spec": {
            "entrypoint": "fpnas",
            "serviceAccountName": names.SERVICE_ACCOUNT,
            "workflowMetadata": {"labels": labels},
            "podMetadata": {"labels": labels},
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": names.USER_ID,
                "runAsGroup": names.USER_ID,
                "fsGroup": names.USER_ID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "arguments": {"parameters": parameters},
            "templates": [
                {"name": "fpnas", "dag": {"tasks": [_task(n, node) for n, node in graph.items()]}},
                *(_template(name, node, plan.resources) for name, node in graph.items()),
            ],
        },
    }


def _task(name: str, node: Node) -> dict[str, Any]:
    values = {
        "config": f"{{{{workflow.parameters.{name}_config}}}}",
        "run": "{{workflow.parameters.run}}",
        **{
            role: f"{{{{tasks.{source}.outputs.parameters.artifact}}}}"
            for role, source in node.sources.items()
        },
    }
    task = {
        "name": name,
        "template": name,
        "arguments": {"parameters": [{"name": k, "value": v} for k, v in values.items()]},
    }
    sources = sorted(set(node.sources.values()))
    return {**task, "dependencies": sources} if sources else task


def _template(name: str, node: Node, table: ResourceTable) -> dict[str, Any]:
    own = table.stages[name]
    retries = own.retries
    grace = {"terminationGracePeriodSeconds": own.grace_seconds}
    return {
        "name": name,
        "metadata": {"labels": names.pod_labels(name, own.priority)},
        "inputs": {
            "parameters": [{"name": key} for key in ("config", "run", *node.sources)],
            "artifacts": [_file("config", _CONFIG), _file("run", _RUN)],
        },
        "outputs": {"parameters": [{"name": "artifact", "valueFrom": {"path": _ARTIFACT}}]},
        "activeDeadlineSeconds": own.timeout_seconds,
        "podSpecPatch": json.dumps(grace),
        "nodeSelector": table.node_selector(name),
        "tolerations": [
            {**taint.model_dump(), "operator": "Equal"} for taint in table.pool(name).taints
        ],
        "retryStrategy": {
            "limit": str(retries.limit),
            "retryPolicy": "Always",
            # Status 2 is bad input, which does not get better.
            "expression": "asInt(lastRetry.exitCode) != 2",
            "backoff": {
                "duration": str(retries.backoff_seconds),
                "factor": str(retries.factor),
                "cap": str(retries.max_seconds),
            },
        },
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": own.shared_memory}},
            {"name": "scratch", "emptyDir": {"sizeLimit": own.scratch}},
        ],
        "container": _container(name, node, table),
    }


def _file(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "path": path, "raw": {"data": f"{{{{inputs.parameters.{name}}}}}"}}


def _container(name: str, node: Node, table: ResourceTable) -> dict[str, Any]:
    own, pool = table.stages[name], table.pool(name)
    size = {"cpu": own.cpu, "memory": own.memory}
    if pool.gpu_resource:
        size[pool.gpu_resource] = str(own.gpus)
    words = ["fpnas", "stage", name, "--config", _CONFIG, "--run", _RUN, "--output", _ARTIFACT]
    for role in node.sources:
        words += ["--input", f"{role}={{{{inputs.parameters.{role}}}}}"]
    return {
        "image": node.image,
        "imagePullPolicy": "IfNotPresent",
        "command": words,
        "resources": {"requests": size, "limits": size},
        "env": _environment(),
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
            {"name": "scratch", "mountPath": names.SCRATCH},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _environment() -> list[dict[str, Any]]:
    plain = [{"name": key, "value": value} for key, value in names.SCRATCH_VARIABLES.items()]
    secret = [_reference(k, "secretKeyRef", names.S3_SECRET) for k in names.S3_SECRET_KEYS]
    config = [
        _reference(k, "configMapKeyRef", names.STORAGE_CONFIG_MAP) for k in names.STORAGE_KEYS
    ]
    return [*plain, *secret, *config]


def _reference(key: str, kind: str, name: str) -> dict[str, Any]:
    return {"name": key, "valueFrom": {kind: {"name": name, "key": key}}}
