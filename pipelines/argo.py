"""The pipeline as a WorkflowTemplate, for clusters that have Argo Workflows and no Kubeflow.

The graph is that of the one definition; a task is ``fpnas stage`` in the stage's image. Between
tasks go addresses of artifacts, as parameters: the artifacts themselves go through S3.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import yaml

from fpnas.packages import require
from pipelines import names, pod_spec
from pipelines.compile import Compilable
from pipelines.graph import Node, pipeline_graph
from pipelines.strict import check_fields
from pipelines.train_job import train_job_variables

# Argo mounts what goes in, file by file, where no volume is; what goes out is on one.
_CONFIG, _RUN, _ARTIFACT = "/inputs/config.json", "/inputs/run.json", f"{names.SCRATCH}/artifact"


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
    check_fields(manifest, back, "Argo's WorkflowTemplate")
    return manifest


def _manifest(plan: Compilable, graph: Mapping[str, Node]) -> dict[str, Any]:
    parameters = [{"name": key, "value": value} for key, value in plan.parameters().items()]
    labels = {names.RUN_LABEL: names.run_name(plan.info.run_id)}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "WorkflowTemplate",
        "metadata": {
            "name": names.run_name(plan.info.run_id),
            "namespace": names.NAMESPACE,
            "labels": labels,
        },
        "spec": {
            "entrypoint": "fpnas",
            "serviceAccountName": names.SERVICE_ACCOUNT,
            "workflowMetadata": {"labels": labels},
            "podMetadata": {"labels": labels},
            "securityContext": pod_spec.POD_SECURITY,
            "arguments": {"parameters": parameters},
            "templates": [
                {"name": "fpnas", "dag": {"tasks": [_task(n, node) for n, node in graph.items()]}},
                *(_template(name, node, plan) for name, node in graph.items()),
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


def _template(name: str, node: Node, plan: Compilable) -> dict[str, Any]:
    table = plan.resources
    own = table.task(name)
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
        "nodeSelector": table.node_selector(own),
        "tolerations": pod_spec.tolerations(table, own),
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
        "volumes": pod_spec.volumes(own),
        "container": _container(name, node, plan),
    }


def _file(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "path": path, "raw": {"data": f"{{{{inputs.parameters.{name}}}}}"}}


def _container(name: str, node: Node, plan: Compilable) -> dict[str, Any]:
    words = ["fpnas", "stage", name, "--config", _CONFIG, "--run", _RUN, "--output", _ARTIFACT]
    for role in node.sources:
        words += ["--input", f"{role}={{{{inputs.parameters.{role}}}}}"]
    job = train_job_variables(name, node.image, plan)
    fields = {variable: {"fieldRef": {"fieldPath": path}} for variable, path in job.fields.items()}
    return {
        "image": node.image,
        "imagePullPolicy": "IfNotPresent",
        "command": words,
        "resources": pod_spec.size(plan.resources, plan.resources.task(name)),
        "env": [
            *pod_spec.environment(),
            *({"name": key, "value": value} for key, value in job.values.items()),
            *({"name": key, "valueFrom": source} for key, source in fields.items()),
        ],
        "volumeMounts": pod_spec.VOLUME_MOUNTS,
        "securityContext": pod_spec.CONTAINER_SECURITY,
    }
