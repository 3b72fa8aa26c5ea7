"""A stage on several nodes: its TrainJob of Kubeflow Trainer, and the pod that starts it.

The task of such a stage is a small pod with the stage's own image. It makes the TrainJob that is in
its environment, waits for it, and hands on the artifact that the job's first process has written
(:mod:`fpnas.stages.train_job`); so every engine starts it, retries it and stops it as any other
task. Trainer's API is alpha: its fields are named here and in ``k8s/components/trainer`` alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fpnas.packages import require
from fpnas.stages import train_job as launcher
from pipelines import names, pod_spec
from pipelines.compile import Compilable
from pipelines.strict import check_fields


@dataclass(frozen=True)
class Variables:
    """What the environment of a stage's pod has besides that of others.

    Attributes:
        values: By name.
        fields: Fields of the pod itself, by name.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)


def train_job_variables(stage: str, image: str, plan: Compilable) -> Variables:
    """What makes a stage's pod the launcher of a TrainJob; nothing for a stage on one node.

    Raises:
        InputError: Trainer's models, which check the fields, are not installed.
    """
    if plan.resources.stages[stage].nodes == 1:
        return Variables()
    manifest = json.dumps(train_job(stage, image, plan), sort_keys=True)
    return Variables({launcher.MANIFEST: manifest}, launcher.POD_FIELDS)


def train_job(stage: str, image: str, plan: Compilable) -> dict[str, Any]:
    """The TrainJob of a stage, but for what its launcher knows: its name and what it works on.

    Raises:
        InputError: Trainer's models, which check the fields, are not installed.
    """
    own = plan.resources.stages[stage]
    pod = {
        "nodeSelector": plan.resources.node_selector(own),
        "tolerations": pod_spec.tolerations(plan.resources, own),
        "terminationGracePeriodSeconds": own.grace_seconds,
        "volumes": pod_spec.volumes(own),
    }
    run = {names.RUN_LABEL: names.run_name(plan.info.run_id)}
    template = {"metadata": {"labels": {names.STAGE_LABEL: stage, **run}}, "spec": pod}
    node = {"name": launcher.NODE, "template": {"spec": {"template": template}}}
    manifest = {
        "apiVersion": f"{launcher.GROUP}/{launcher.VERSION}",
        "kind": "TrainJob",
        "metadata": {"labels": {**names.pod_labels(stage, own.priority), **run}},
        "spec": {
            "activeDeadlineSeconds": own.timeout_seconds,
            "runtimeRef": {
                "apiGroup": launcher.GROUP,
                "kind": "TrainingRuntime",
                "name": names.TRAINING_RUNTIME,
            },
            "trainer": {
                "image": image,
                "command": ["python", "-m", "fpnas.stages.nodes"],
                "numNodes": own.nodes,
                "resourcesPerNode": pod_spec.size(plan.resources, own),
                "env": pod_spec.environment(),
            },
            "runtimePatches": [
                {
                    "manager": "fpnas.io/pipeline",
                    "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node]}}},
                }
            ],
        },
    }
    return checked(manifest)


def checked(manifest: dict[str, Any]) -> dict[str, Any]:
    """Returns a TrainJob or a TrainingRuntime if Trainer has all of its fields.

    Raises:
        InputError: Trainer's models are not installed.
        ValueError: Naming the fields that Trainer does not have.
        pydantic.ValidationError: A field has a value of the wrong type.
    """
    require("kubeflow_trainer_api", extra="nodes")
    from kubeflow_trainer_api import models

    kind = manifest["kind"]
    if manifest["apiVersion"] != f"{launcher.GROUP}/{launcher.VERSION}":
        raise ValueError(f"apiVersion {manifest['apiVersion']} is not Trainer's")
    found: Any = getattr(models, f"TrainerV1alpha1{kind}").from_dict(manifest)
    check_fields(manifest, found.to_dict(), f"Trainer's {kind}")
    return manifest
