"""Starts the TrainJob of a stage that runs on several nodes, and waits for it.

The job lives as long as the pod that waits for it: it is deleted when that pod is stopped, and
Kubernetes deletes it with the pod's object. A pod that is tried again finds a job that goes on. The
job's pods are not started again one by one: when one fails, the job fails and so does this pod, and
the engine tries it again as the table of resources says; the next job goes on from the last
checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from fpnas.canonical import digest
from fpnas.errors import FpnasError, InputError, ServiceDownError, StoppedError, first_line
from fpnas.stages.base import (
    RunInfo,
    Stage,
    artifact_key,
    execute,
    find_artifact,
    stop_flag,
    write_end,
)
from fpnas.stages.cluster import load_cluster, reason_of
from fpnas.stages.config import StageConfig, num_processes
from fpnas.stages.events import Events
from fpnas.stages.nodes import JOB
from fpnas.stages.ranks import job_of
from fpnas.storage import Artifact, Store

MANIFEST = "FPNAS_TRAIN_JOB"
"""Environment variable: the TrainJob that a stage is to be run by, as JSON."""

GROUP, VERSION, NODE = "trainer.kubeflow.org", "v1alpha1", "node"
"""Trainer's API, and what it calls the pods that torchrun's processes are in."""

POD_FIELDS: Mapping[str, str] = {
    "FPNAS_POD_NAMESPACE": "metadata.namespace",
    "FPNAS_POD_NAME": "metadata.name",
    "FPNAS_POD_UID": "metadata.uid",
}
"""Environment variables of the waiting pod, and the fields of its object that they hold."""

_LOG = logging.getLogger("fpnas")
_PODS_OF_JOB = "jobset.sigs.k8s.io/jobset-name"
_CONTENTS = "fpnas.io/contents"
_POLL_SECONDS = 10.0
_PATIENCE_SECONDS = 600.0  # with a cluster's API that does not answer; an upgrade takes minutes


class TrainJobError(FpnasError):
    """A TrainJob failed.

    Args:
        message: Why.
        exit_status: 2 when a process of it ended so, for bad input; else 75: a job that is
            started again goes on.
    """

    def __init__(self, message: str, exit_status: int = 75) -> None:
        super().__init__(message)
        self.exit_status = exit_status  # type: ignore[misc]


def perform(
    stage: Stage,
    config: StageConfig,
    info: RunInfo,
    inputs: Mapping[str, Artifact],
    store: Store,
) -> tuple[Artifact, bool]:
    """Runs a stage in this process, or by the TrainJob that its environment has for it.

    Returns:
        The artifact, and whether it was found.

    Raises:
        FpnasError: As :func:`fpnas.stages.base.execute`, or the job failed.
    """
    manifest = os.environ.get(MANIFEST)
    if manifest is None:
        return execute(stage, config, info, inputs, store)
    key = artifact_key(stage, config, inputs, store)
    found = find_artifact(store, key)
    cached = found is not None
    if found is None:
        job = job_of(stage, config, info, inputs)
        completed = complete(json.loads(manifest), key, job, config)
        with stop_flag() as stop_requested:
            jobs = TrainJobs(os.environ["FPNAS_POD_NAMESPACE"], stop_requested)
            jobs.run(completed)
        found = find_artifact(store, key)
    if found is None:
        raise TrainJobError(f"the TrainJob is complete, but there is no artifact {key}")
    write_end(Events(stage.name), found, cached=cached)
    return found, cached


def complete(
    manifest: dict[str, Any],
    key: str,
    job: Mapping[str, Any],
    config: StageConfig,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """Puts into a TrainJob what is known when it starts.

    Args:
        manifest: From the environment.
        key: Of the artifact. The job's name follows from it, so that the same work is not done by
            two jobs.
        job: The stage and what it works on, for the job's processes.
        config: Of the stage.
        environ: Has :data:`POD_FIELDS`.

    Raises:
        InputError: The processes cannot be shared out evenly.
    """
    trainer = manifest["spec"]["trainer"]
    processes, nodes = num_processes(config)[0], trainer["numNodes"]
    if processes % nodes:
        raise InputError(
            f"{job['stage']}.num_processes",
            processes,
            f"cannot be shared out on {nodes} nodes",
            fix=f"use a multiple of {nodes}",
        )
    trainer["numProcPerNode"] = processes // nodes
    trainer["env"] = [*trainer["env"], {"name": JOB, "value": json.dumps(job, sort_keys=True)}]
    contents = digest(manifest)
    manifest["metadata"] |= {
        "name": f"fpnas-{job['stage']}-{digest(key)[:10]}",
        "annotations": {_CONTENTS: contents},
        "ownerReferences": [
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "name": environ["FPNAS_POD_NAME"],
                "uid": environ["FPNAS_POD_UID"],
            }
        ],
    }
    return manifest


class TrainJobs:
    """The TrainJobs of a namespace, through the account of this pod.

    Args:
        namespace: Where.
        stop_requested: Whether a signal asked to stop.
        poll_seconds: Time between two looks.
        patience_seconds: How long the API may be away.
    """

    def __init__(
        self,
        namespace: str,
        stop_requested: Callable[[], bool],
        poll_seconds: float = _POLL_SECONDS,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        from kubernetes import client

        load_cluster()
        self._objects, self._pods = client.CustomObjectsApi(), client.CoreV1Api()
        self._stop_requested = stop_requested
        self._poll_seconds, self._patience_seconds = poll_seconds, patience_seconds
        self._place: Mapping[str, str] = {
            "group": GROUP,
            "version": VERSION,
            "namespace": namespace,
            "plural": "trainjobs",
        }

    def run(self, manifest: Mapping[str, Any]) -> None:
        """Starts a TrainJob, or finds it, and waits for its end.

        Raises:
            StoppedError: A signal asked to stop; the job was deleted.
            TrainJobError: It failed, or somebody deleted it.
            ServiceDownError: The cluster's API was away for too long.
            InputError: There is no Trainer, or it does not take the job.
        """
        name = manifest["metadata"]["name"]
        told = ""
        try:
            self._start(manifest)
            while True:
                job = self._get(name)
                if job is None:
                    raise TrainJobError(f"the TrainJob {name} was deleted")
                if _condition(job, "Complete"):
                    return
                failed = _condition(job, "Failed")
                if failed:
                    why = f"{failed.get('reason', '')}: {failed.get('message', '')}"
                    message = f"the TrainJob {name} failed ({why}); {self._logs(name)}"
                    raise TrainJobError(message, self._exit_status(name))
                state = _state(job)
                if state != told:
                    _LOG.info("the TrainJob %s %s; %s", name, state, self._logs(name))
                    told = state
                self._pause()
        except StoppedError:
            self._delete(name)
            raise

    def _start(self, manifest: Mapping[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        while not self._created(manifest):
            there = self._get(name)
            if there is None:
                continue
            finished = _condition(there, "Complete") or _condition(there, "Failed")
            leaving = "deletionTimestamp" in there["metadata"]
            annotations = there["metadata"].get("annotations", {})
            same = annotations.get(_CONTENTS) == manifest["metadata"]["annotations"][_CONTENTS]
            if same and not finished and not leaving:
                _LOG.info("the TrainJob %s is there already", name)
                return
            if not leaving:
                _LOG.info("an older TrainJob %s is deleted", name)
                self._delete(name)
            self._pause()

    def _created(self, manifest: Mapping[str, Any]) -> bool:
        """Whether it was made; False where one of that name is there, perhaps by a lost answer."""
        made = self._ask(
            lambda: self._objects.create_namespaced_custom_object(
                **self._place, body=manifest, _request_timeout=30
            ),
            {409},
        )
        return made is not None

    def _get(self, name: str) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._ask(
            lambda: self._objects.get_namespaced_custom_object(
                **self._place, name=name, _request_timeout=30
            ),
            {404},
        )
        return found

    def _delete(self, name: str) -> None:
        """Deletes a job, which is there until its pods are gone."""
        self._ask(
            lambda: self._objects.delete_namespaced_custom_object(
                **self._place,
                name=name,
                propagation_policy="Foreground",
                _request_timeout=30,
            ),
            {404},
            stoppable=False,
        )

    def _exit_status(self, name: str) -> int:
        """2 when a container of the job ended so."""
        found: Any = self._ask(
            lambda: self._pods.list_namespaced_pod(
                self._place["namespace"],
                label_selector=f"{_PODS_OF_JOB}={name}",
                _request_timeout=30,
            ),
            set(),
        )
        ended = (
            container.state.terminated.exit_code
            for pod in found.items
            for container in pod.status.container_statuses or ()
            if container.state.terminated
        )
        return 2 if 2 in ended else 75

    def _logs(self, name: str) -> str:
        return f"kubectl logs -n {self._place['namespace']} -l {_PODS_OF_JOB}={name} --prefix"

    def _ask(
        self, call: Callable[[], Any], usual: set[int], *, stoppable: bool = True
    ) -> Any | None:
        """Calls the API until it answers; None for the statuses that the caller expects."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        deadline = time.monotonic() + self._patience_seconds
        while True:
            try:
                return call()
            except ApiException as error:
                status = error.status or 0
                if status in usual:
                    return None
                if status < 500 and status != 429:
                    raise _refused(error, self._place["namespace"]) from error
                last: Exception = error
            except HTTPError as error:
                last = error
            if time.monotonic() > deadline:
                raise ServiceDownError(f"the cluster's API does not answer: {last}") from last
            _LOG.warning("the cluster's API does not answer (%s)", first_line(last))
            if stoppable:
                self._pause()
            else:
                time.sleep(min(1.0, self._poll_seconds))

    def _pause(self) -> None:
        until = time.monotonic() + self._poll_seconds
        while True:
            if self._stop_requested():
                raise StoppedError("stopped by a signal while a TrainJob was under way")
            left = until - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(0.2, left))


def _condition(job: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    conditions = job.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == kind and c["status"] == "True"), None)


def _state(job: Mapping[str, Any]) -> str:
    """What it does, for people."""
    suspended = _condition(job, "Suspended")
    if suspended or job["spec"].get("suspend"):
        return f"waits for its nodes ({(suspended or {}).get('message') or 'suspended'})"
    found = job.get("status", {}).get("jobsStatus", [])
    return "runs" if any(s["name"] == NODE and s.get("ready") for s in found) else "starts"


def _refused(error: Any, namespace: str) -> InputError:
    """What the API says that it does not do, as a message."""
    fix = {
        403: "add the component k8s/components/trainer, whose role fpnas-train-jobs allows it",
        404: "install Kubeflow Trainer 2.2 or newer, or use one node",
    }.get(error.status, "see docs/cluster.md for the versions that are needed")
    problem = f"is refused: {reason_of(error)}"
    return InputError("resources.nodes", f"TrainJob in {namespace}", problem, fix=fix)
