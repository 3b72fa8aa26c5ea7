"""Why a pod does not run: from its conditions and events to a cause and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpnas.errors import InputError
from fpnas.stages.cluster import load_cluster
from pipelines.names import STAGE_LABEL
from pipelines.resources import POOL_LABEL

_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")


@dataclass(frozen=True)
class Finding:
    """Why a pod does not run, or ended.

    Attributes:
        cause: A clause.
        fix: What to do; empty where waiting is enough.
    """

    cause: str
    fix: str = ""


def diagnose(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]] = ()) -> Finding | None:
    """Says why a pod is stuck or failed.

    Args:
        pod: As Kubernetes' API gives it.
        events: Of the pod, in any order.

    Returns:
        None for a pod that runs or succeeded, or about which nothing is known.
    """
    status = pod.get("status", {})
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    if status.get("phase") == "Succeeded":
        return None
    return (
        _failed(status, containers)
        or next((f for c in containers if (f := _waiting(c))), None)
        or (_unscheduled(pod, status, events) if status.get("phase") == "Pending" else None)
        or next((f for e in events if (f := _event(e))), None)
    )


def _failed(status: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]) -> Finding | None:
    reason, message = status.get("reason", ""), status.get("message", "")
    if reason == "Evicted":
        return Finding(f"evicted: {message}", "raise memory or scratch in resources of the stage")
    if reason == "DeadlineExceeded":
        return Finding("its time was up", "raise resources.<stage>.timeout_seconds")
    conditions = {c["type"]: c for c in status.get("conditions", []) if c["status"] == "True"}
    gone = reason in ("NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated")
    if gone or "DisruptionTarget" in conditions:
        return Finding("its node went away; the next try goes on from the last checkpoint")
    for container in containers:
        ended = container.get("state", {}).get("terminated", {})
        code = ended.get("exitCode", 0)
        if ended.get("reason") == "OOMKilled":
            return Finding("out of memory", "raise resources.<stage>.memory")
        if code == 2:
            return Finding("bad input (status 2)", "read its log: fpnas logs")
        if code == 75:
            return Finding("stopped after a checkpoint (status 75); the next try goes on")
        if code:
            return Finding(f"it failed with status {code}", "read its log: fpnas logs")
    return None


def _waiting(container: Mapping[str, Any]) -> Finding | None:
    waiting = container.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE:
        return Finding(
            f"its image {container.get('image', '')} cannot be pulled ({reason})",
            "push the image, set FPNAS_IMAGE_PREFIX when compiling, or add a pull secret",
        )
    return _missing(message) if reason == "CreateContainerConfigError" else None


def _missing(message: str) -> Finding | None:
    found = re.search(r'(secret|configmap) "([^"]+)" not found', message, re.IGNORECASE)
    if found:
        kind, name = found.groups()
        return Finding(f"the {kind.lower()} {name} is missing", "make it: see docs/kubernetes.md")
    key = re.search(r"couldn't find key (\S+) in (Secret|ConfigMap) (\S+)", message)
    if key:
        return Finding(
            f"the {key[2].lower()} {key[3]} has no {key[1]}", "add it: see docs/kubernetes.md"
        )
    return None


def _unscheduled(
    pod: Mapping[str, Any], status: Mapping[str, Any], events: Sequence[Mapping[str, Any]]
) -> Finding | None:
    conditions = {c["type"]: c for c in status.get("conditions", [])}
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("reason") == "SchedulingGated" or pod["spec"].get("schedulingGates"):
        return Finding(
            "it waits in Kueue's queue for quota", "kubectl describe workloads -n fpnas says more"
        )
    if scheduled.get("status") != "False":
        return None
    if any(event.get("reason") == "TriggeredScaleUp" for event in events):
        return Finding("a node is being added for it")
    message = scheduled.get("message", "")
    pool = pod["spec"].get("nodeSelector", {}).get(POOL_LABEL, "")
    short = sorted(set(re.findall(r"Insufficient ([\w./-]*\w)", message)))
    if short:
        return Finding(
            f"no node of the pool {pool} has enough {', '.join(short)} left",
            "wait, add nodes, or ask for less in resources of the stage",
        )
    if "node affinity/selector" in message or "untolerated taint" in message:
        return Finding(
            f"there is no node of the pool {pool} that takes it",
            f"label nodes {POOL_LABEL}={pool}, or choose another pool in resources of the stage",
        )
    return Finding(f"it cannot be scheduled: {message}", "kubectl describe pod says more")


def _event(event: Mapping[str, Any]) -> Finding | None:
    message = event.get("message", "")
    if "exceeded quota" in message:
        return Finding(
            f"the namespace's quota is used up: {message}", "wait, or raise the ResourceQuota"
        )
    if event.get("reason") in ("FailedMount", "Failed", "FailedCreatePodSandBox"):
        return _missing(message)
    return None


class Cluster:
    """Pods and events of a namespace, through the kubeconfig of this machine or pod.

    Raises:
        InputError: There is no kubeconfig.
    """

    def __init__(self, namespace: str) -> None:
        from kubernetes import client

        load_cluster()
        self._api, self._namespace = client.CoreV1Api(), namespace
        self._plain: Callable[[Any], Any] = client.ApiClient().sanitize_for_serialization

    def pods(self, run_id: str) -> list[dict[str, Any]]:
        """The pods of the stages of a KFP run."""
        selector = f"pipeline/runid={run_id},{STAGE_LABEL}"
        found = self._api.list_namespaced_pod(
            self._namespace, label_selector=selector, _request_timeout=30
        )
        return list(self._plain(found)["items"])

    def findings(self, run_id: str) -> list[dict[str, Any]]:
        """One entry a pod: stage, pod, phase, cause, fix."""
        events = self._plain(self._api.list_namespaced_event(self._namespace, _request_timeout=30))[
            "items"
        ]
        entries = []
        for pod in self.pods(run_id):
            name = pod["metadata"]["name"]
            own = [e for e in events if e.get("involvedObject", {}).get("name") == name]
            found = diagnose(pod, own)
            entries.append(
                {
                    "stage": pod["metadata"]["labels"][STAGE_LABEL],
                    "pod": name,
                    "phase": pod.get("status", {}).get("phase", "Unknown"),
                    "cause": found.cause if found else "",
                    "fix": found.fix if found else "",
                }
            )
        return entries

    def log(self, run_id: str, stage: str, tail_lines: int) -> str:
        """The end of the log of a stage's newest pod.

        Raises:
            InputError: The stage has no pod.
        """
        pods = [p for p in self.pods(run_id) if p["metadata"]["labels"][STAGE_LABEL] == stage]
        if not pods:
            raise InputError("STAGE", stage, "has no pod", fix="fpnas status says what has begun")
        newest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
        return str(
            self._api.read_namespaced_pod_log(
                newest["metadata"]["name"],
                self._namespace,
                container="main",
                tail_lines=tail_lines,
                _request_timeout=30,
            )
        )
