"""Why a pod does not run: from its conditions and events to a cause and what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpnas.errors import FpnasError, InputError, ServiceDownError
from fpnas.stages.cluster import load_cluster, reason_of
from fpnas.stages.train_job import NODE
from pipelines.kfp_body import tasks
from pipelines.kfp_server import ENDED
from pipelines.names import RUN_LABEL, STAGE_LABEL, run_name
from pipelines.quotas import asked_for, too_small
from pipelines.resources import POOL_LABEL

_OVER = ("Succeeded", "Failed")
_FIXES = {
    400: "wait until its container has started; fpnas status says what it waits for",
    401: "log in to the cluster again",
    403: "take an account with the role fpnas-submitter (k8s/base/roles.yaml)",
}
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
    status, stage = pod.get("status", {}), pod["metadata"]["labels"][STAGE_LABEL]
    containers = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
    if status.get("phase") == "Succeeded":
        return None
    return (
        _failed(stage, status, containers)
        or next((f for c in containers if (f := _waiting(c))), None)
        or (_unscheduled(pod, stage, events) if status.get("phase") == "Pending" else None)
        or next((f for e in events if (f := _event(e))), None)
    )


def _failed(
    stage: str, status: Mapping[str, Any], containers: Sequence[Mapping[str, Any]]
) -> Finding | None:
    reason, message = status.get("reason", ""), status.get("message", "")
    if reason == "Evicted":
        return Finding(f"evicted: {message}", f"raise memory or scratch in resources.{stage}")
    if reason == "DeadlineExceeded":
        return Finding("its time was up", f"raise resources.{stage}.timeout_seconds")
    conditions = {c["type"]: c for c in status.get("conditions", []) if c["status"] == "True"}
    gone = reason in ("NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated")
    if gone or "DisruptionTarget" in conditions:
        return Finding("its node went away; the next try goes on from the last checkpoint")
    for container in containers:
        ended = container.get("state", {}).get("terminated", {})
        code = ended.get("exitCode", 0)
        if ended.get("reason") == "OOMKilled":
            return Finding("out of memory", f"raise resources.{stage}.memory")
        if code == 2:
            return Finding("bad input (status 2)", f"read its log: fpnas logs RUN {stage}")
        if code == 75:
            return Finding("stopped after a checkpoint (status 75); the next try goes on")
        if code:
            return Finding(f"it failed with status {code}", f"read its log: fpnas logs RUN {stage}")
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
    pod: Mapping[str, Any], stage: str, events: Sequence[Mapping[str, Any]]
) -> Finding | None:
    conditions = {c["type"]: c for c in pod["status"].get("conditions", [])}
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
            f"wait, add nodes, or ask for less in resources.{stage}",
        )
    if "node affinity/selector" in message or "untolerated taint" in message:
        return Finding(
            f"there is no node of the pool {pool} that takes it",
            f"label nodes {POOL_LABEL}={pool}, or choose another pool in resources.{stage}",
        )
    return Finding(f"it cannot be scheduled: {message}", "kubectl describe pod says more")


def _event(event: Mapping[str, Any]) -> Finding | None:
    if event.get("reason") in ("FailedMount", "Failed", "FailedCreatePodSandBox"):
        return _missing(event.get("message", ""))
    return None


def waiting_stages(run: Mapping[str, Any], pods: Sequence[Mapping[str, Any]]) -> list[str]:
    """The stages that have begun and have no pod.

    Args:
        run: As KFP gives it.
        pods: Of its stages.

    Returns:
        Names; one empty one where KFP has not come as far as the first stage.
    """
    if run.get("state") in ENDED:
        return []
    begun = {task["stage"]: task["state"] for task in tasks(run)}
    if not begun:
        return [] if pods else [""]
    alive = {stage_of(p) for p in pods if p.get("status", {}).get("phase") not in _OVER}
    return [stage for stage, state in begun.items() if state not in ENDED and stage not in alive]


def without_pod(
    run: Mapping[str, Any], stages: Sequence[str], quotas: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Says which stages have no pod because a quota is used up.

    Args:
        run: As KFP gives it.
        stages: From :func:`waiting_stages`.
        quotas: Of the namespace.

    Returns:
        As :meth:`Cluster.findings`, without a pod's name.
    """
    entries = []
    for stage in stages:
        small = too_small(quotas, asked_for(run, stage))
        if small:
            cause = f"it has no pod, and too little is left of the quota {', '.join(small)}"
            less = f"ask for less in resources.{stage}, " if stage else ""
            found = Finding(cause, f"wait, {less}or raise the ResourceQuota")
            entries.append(_entry(stage, "", "Pending", found))
    return entries


def stage_of(pod: Mapping[str, Any]) -> str:
    """The stage that a pod works on."""
    return str(pod["metadata"]["labels"][STAGE_LABEL])


def _entry(stage: str, pod: str, phase: str, found: Finding | None) -> dict[str, Any]:
    found = found or Finding("")
    return {"stage": stage, "pod": pod, "phase": phase, "cause": found.cause, "fix": found.fix}


class Cluster:
    """Pods, events and quotas of a namespace, through the kubeconfig of this machine or pod.

    Raises:
        InputError: There is no kubeconfig.
    """

    def __init__(self, namespace: str) -> None:
        from kubernetes import client

        load_cluster()
        self._api, self._namespace = client.CoreV1Api(), namespace
        self._plain: Callable[[Any], Any] = client.ApiClient().sanitize_for_serialization

    def pods(self, run: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The pods of the stages of a KFP run, those of its TrainJobs among them.

        Raises:
            FpnasError: They cannot be read.
        """
        selectors = (
            f"pipeline/runid={run['run_id']},{STAGE_LABEL}",
            f"{RUN_LABEL}={run_name(run['display_name'])},{STAGE_LABEL}",
        )
        found = [self._list("pods", label_selector=selector) for selector in selectors]
        return list({pod["metadata"]["name"]: pod for pods in found for pod in pods}.values())

    def findings(self, run: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One entry a pod, or a stage that waits for one: stage, pod, phase, cause, fix.

        Args:
            run: As KFP gives it.

        Raises:
            FpnasError: The cluster does not answer, or not with what was asked for.
        """
        pods, events = self.pods(run), self._list("events")
        entries = []
        for pod in pods:
            name = pod["metadata"]["name"]
            own = [e for e in events if e.get("involvedObject", {}).get("name") == name]
            phase = pod.get("status", {}).get("phase", "Unknown")
            entries.append(_entry(stage_of(pod), name, phase, diagnose(pod, own)))
        if waiting := waiting_stages(run, pods):
            entries += without_pod(run, waiting, self._list("resource_quotas"))
        return entries

    def log(self, run: Mapping[str, Any], stage: str, tail_lines: int) -> str:
        """The end of the log of a stage's newest pod; of several nodes, of the first.

        Raises:
            InputError: The stage has no pod.
            FpnasError: There is no log yet, or it cannot be read.
        """
        pods = [pod for pod in self.pods(run) if stage_of(pod) == stage]
        if not pods:
            raise InputError("STAGE", stage, "has no pod", fix="fpnas status says what has begun")
        pods.sort(key=lambda pod: str(pod["metadata"]["name"]))
        newest = max(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
        containers = [container["name"] for container in newest["spec"]["containers"]]
        with _answers(f"read the log of {newest['metadata']['name']}"):
            return str(
                self._api.read_namespaced_pod_log(
                    newest["metadata"]["name"],
                    self._namespace,
                    container=NODE if NODE in containers else "main",
                    tail_lines=tail_lines,
                    _request_timeout=30,
                )
            )

    def _list(self, kind: str, **options: str) -> list[dict[str, Any]]:
        call = getattr(self._api, f"list_namespaced_{kind.removesuffix('s')}")
        with _answers(f"list {kind} in the namespace {self._namespace}"):
            found = call(self._namespace, _request_timeout=30, **options)
        return list(self._plain(found)["items"])


@contextlib.contextmanager
def _answers(doing: str) -> Iterator[None]:
    """Raises FpnasError for what the client of a cluster's API raises in the block."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        fix = _FIXES.get(error.status or 0, "")
        message = f"the cluster's API answered {error.status} to {doing}: {reason_of(error)}"
        raise FpnasError(f"{message}. Fix: {fix}." if fix else message) from error
    except HTTPError as error:
        raise ServiceDownError(
            f"the cluster's API did not answer to {doing} ({type(error).__name__}). Fix: "
            "see whether kubectl reaches it; the kubeconfig may be of a cluster that is gone."
        ) from error
