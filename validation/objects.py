"""Kubernetes objects as plain data: what a check reports, and what many checks look up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Manifest = dict[str, Any]

# Pods that controllers make, so they stand in no manifest: Argo's of a run (for Kubeflow Pipelines
# too), JobSet's for a TrainJob, and Argo Events'. Keys are fixed; the values of the first two
# differ from run to run.
RUN_TIME_PODS: tuple[Mapping[str, str], ...] = (
    {"workflows.argoproj.io/workflow": "run"},
    {"jobset.sigs.k8s.io/jobset-name": "run"},
    {"controller": "eventbus-controller", "eventbus-name": "default"},
    {"controller": "eventsource-controller", "eventsource-name": "fpnas-retrain"},
    {"controller": "sensor-controller", "sensor-name": "fpnas-retrain"},
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one object."""

    subject: str
    problem: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}"


@dataclass(frozen=True)
class Pod:
    """The pods of one object, which may be several replicas."""

    subject: str
    namespace: str
    replicas: int
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """Containers and init containers."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def name_of(manifest: Manifest) -> str:
    """Returns ``Kind/namespace/name``, without the namespace where there is none."""
    metadata = manifest["metadata"]
    parts = [manifest["kind"], metadata.get("namespace"), metadata["name"]]
    return "/".join(part for part in parts if part)


def of_kind(manifests: Iterable[Manifest], kind: str) -> list[Manifest]:
    """Returns the objects of a kind."""
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def pods(manifests: Iterable[Manifest]) -> Iterator[Pod]:
    """Yields the pods that the objects make."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
        elif manifest["kind"] == "Pod":
            template = manifest
        elif manifest["kind"] == "TrainingRuntime":
            continue  # of TrainJobs that come and go; see runtime_pods
        elif "template" in spec and "containers" in spec["template"].get("spec", {}):
            template = spec["template"]
        else:
            continue
        yield Pod(
            subject=name_of(manifest),
            namespace=manifest["metadata"].get("namespace", "default"),
            replicas=spec.get("replicas", 1),
            labels=template.get("metadata", {}).get("labels", {}),
            spec=template["spec"],
        )


def runtime_pods(manifests: Iterable[Manifest]) -> Iterator[Pod]:
    """Yields the pods that TrainJobs take over from their runtime; they have no image yet."""
    for runtime in of_kind(manifests, "TrainingRuntime"):
        for job in runtime["spec"]["template"]["spec"]["replicatedJobs"]:
            template = job["template"]["spec"]["template"]
            yield Pod(
                subject=name_of(runtime),
                namespace=runtime["metadata"]["namespace"],
                replicas=runtime["spec"]["mlPolicy"]["numNodes"],
                labels=template.get("metadata", {}).get("labels", {}),
                spec=template["spec"],
            )


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a label selector matches labels; an empty one matches all."""
    matches: dict[str, Callable[[str, list[str]], bool]] = {
        "In": lambda key, values: labels.get(key) in values,
        "NotIn": lambda key, values: labels.get(key) not in values,
        "Exists": lambda key, _: key in labels,
        "DoesNotExist": lambda key, _: key not in labels,
    }
    return all(
        labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()
    ) and all(
        matches[rule["operator"]](rule["key"], rule.get("values", []))
        for rule in selector.get("matchExpressions", [])
    )
