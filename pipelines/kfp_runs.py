"""A run on Kubeflow Pipelines, for the commands that start it and wait for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpnas.errors import FpnasError, StoppedError
from pipelines import names

if TYPE_CHECKING:
    from pipelines.compile import Compilable
    from pipelines.kfp_server import Server

KFP = "kfp"
"""The engine, as users name it."""

ENDPOINT = "KF_PIPELINES_ENDPOINT"
EXPERIMENT = "fpnas"


@dataclass(frozen=True)
class Target:
    """Where runs are submitted to.

    Attributes:
        endpoint: Of KFP's API.
        experiment: Name.
        namespace: Of a server with several users.
        pipeline_root: Where KFP puts references to artifacts; beside the artifacts by default.
        service_account: Of the pods.
    """

    endpoint: str
    experiment: str = EXPERIMENT
    namespace: str | None = None
    pipeline_root: str | None = None
    service_account: str = names.SERVICE_ACCOUNT

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Target:
        """The server that ``KF_PIPELINES_ENDPOINT`` names, and for the rest what is usual."""
        return cls(environ.get(ENDPOINT, ""))


@dataclass(frozen=True)
class Submission:
    """A run that can be started: its server answers, and takes what was compiled.

    Attributes:
        server: Where.
        name: Of the run.
        experiment: Name.
        body: The rest of the run.
    """

    server: Server
    name: str
    experiment: str
    body: Mapping[str, Any]

    def start(self, *, again: bool = False) -> tuple[dict[str, Any], bool]:
        """Makes the run, or finds it; see :meth:`pipelines.kfp_server.Server.submit`."""
        experiment = self.server.experiment(self.experiment)
        return self.server.submit(self.name, experiment, self.body, again=again)

    def schedule(self, cron: str) -> tuple[dict[str, Any], bool]:
        """Starts it again and again; see :meth:`pipelines.kfp_server.Server.schedule`."""
        experiment = self.server.experiment(self.experiment)
        return self.server.schedule(self.name, experiment, cron, self.body)


def submission(plan: Compilable, target: Target) -> Submission:
    """Compiles a plan, and checks what can be checked before anything is made.

    Raises:
        InputError: The plan cannot run on a cluster, or the server cannot be used.
        ServiceDownError: The server does not answer.
    """
    from pipelines.kfp_body import run_body

    body = run_body(plan, target.pipeline_root, target.service_account)
    server = server_at(target.endpoint, target.namespace)
    server.check()
    return Submission(server, plan.info.run_id, target.experiment, body)


def server_at(
    endpoint: str, namespace: str | None, environ: Mapping[str, str] = os.environ
) -> Server:
    """The server of an endpoint, with the token of ``KF_PIPELINES_SA_TOKEN_PATH``.

    Raises:
        InputError: The endpoint is no address, or the token cannot be read.
    """
    from pipelines.kfp_server import Server

    path = environ.get("KF_PIPELINES_SA_TOKEN_PATH")
    return Server(endpoint, Path(path) if path else None, namespace)


def summary(run: Mapping[str, Any]) -> dict[str, Any]:
    """What is printed of a run."""
    return {
        "run": run["display_name"],
        "id": run["run_id"],
        "state": run.get("state", "PENDING"),
        "error": run.get("error", {}).get("message", ""),
    }


def failure(run: Mapping[str, Any]) -> FpnasError | None:
    """The error of a run that has ended without success."""
    told = summary(run)
    if told["state"] == "CANCELED":
        return StoppedError(f"{told['run']} was cancelled; submitting it again goes on")
    if told["state"] == "FAILED":
        return FpnasError(f"{told['run']} failed: {told['error'] or 'see fpnas status'}")
    return None
