"""The docker engine: every stage in a container of its image, by KFP's DockerRunner.

Docker and Podman are the same here: both serve Docker's API on a socket.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import docker
import docker.errors
import docker.models.containers
import requests.exceptions

from fpnas.errors import InputError
from fpnas.storage import cache_directory, home_directory
from fpnas.tracking import OWN_SERVER
from pipelines import names, stage_container
from pipelines.container_engine import connected, find_engine, lost, stage_images
from pipelines.engine import LocalPlan, Session, environment

if TYPE_CHECKING:
    from kfp import dsl

FOLDER_LABEL = "fpnas.io/folder"
"""Label of a container: the folder of the run that it belongs to."""

_ENGINE_BACK_SECONDS = 60.0
_STAGE_ARGUMENT = "--function_to_execute"
_ADDRESSES = ("S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI")
# Looks for servers from inside a container; their addresses, which may hold a password, are in its
# environment.
_REACH = """
import os, socket, sys, urllib.parse
for name in sys.argv[1:]:
    parts = urllib.parse.urlsplit(os.environ[name])
    port = parts.port or {"https": 443}.get(parts.scheme, 80)
    try:
        socket.create_connection((parts.hostname, port), 5).close()
    except OSError as error:
        sys.exit(f"{name} {error}")
"""


class DockerEngine:
    """Runs stages in containers on this machine.

    Args:
        environ: ``DOCKER_HOST``, and what stages need to reach S3 and MLflow.
    """

    name = "docker"

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._address = ""
        self._images: dict[str, str] = {}
        self._given: list[str] = []

    def check(self, plan: LocalPlan) -> None:
        """Looks for the container engine, the images of all stages, and a fitting MLflow."""
        self._given = [name for name in _ADDRESSES if self._environ.get(name)]
        check_tracking(self._environ)
        self._address = find_engine(self._environ)
        with connected(self._address) as client:
            self._images = stage_images(client, plan.pipeline)

    @contextlib.contextmanager
    def session(
        self, plan: LocalPlan, directory: Path, variables: Mapping[str, str]
    ) -> Iterator[Session]:
        """Starts containers; serves MLflow over this machine's file where none is given."""
        from kfp import local
        from kfp.local import docker_task_handler

        with (
            connected(self._address) as client,
            _tracking(self._environ) as tracking,
            _scratch(directory),
        ):
            remove_left_over(client, directory)
            arguments = self._arguments(client, plan, directory, {**variables, **tracking})
            runs = ContainerRuns(self._address, plan, directory)
            runs.check_reach(client, self._images["prepare"], self._given, arguments)
            with (
                environment({"DOCKER_HOST": self._address}),
                # KFP has the engine remove a container at its end, and takes one that is gone for
                # a success: with Podman, whatever the stage's exit status was.
                mock.patch.object(docker_task_handler, "run_docker_container", runs.run),
            ):
                yield Session(local.DockerRunner(**arguments), self.place, runs.last_words)

    def place(self, stage: str, task: dsl.PipelineTask) -> None:
        """The image that was checked, by its id: a new one under its name changes nothing."""
        task.set_container_image(self._images[stage])

    def _arguments(
        self,
        client: docker.DockerClient,
        plan: LocalPlan,
        directory: Path,
        variables: Mapping[str, str],
    ) -> dict[str, Any]:
        host = stage_container.Host.of(client)
        cache = cache_directory(self._environ)
        cache.mkdir(parents=True, exist_ok=True)
        for folder in (directory, cache):
            stage_container.hand_over(folder, *host.user())
        return stage_container.arguments(
            host, directory, cache, plan.configs, variables, self._environ
        )


class ContainerRuns:
    """Runs the containers of one run, and knows how each of them ended.

    Args:
        address: Of the container engine.
        plan: The run.
        directory: Its folder.
    """

    def __init__(self, address: str, plan: LocalPlan, directory: Path) -> None:
        self._address, self._plan, self._directory = address, plan, directory
        self._words: dict[str, str] = {}

    def run(
        self,
        client: docker.DockerClient,
        image: str,
        command: list[str],
        volumes: Mapping[str, Any],
        **arguments: Any,
    ) -> int:
        """Runs a stage's container to its end; takes the place of KFP's own function.

        Args:
            client: Of the container engine.
            image: Of the stage.
            command: Starts KFP's executor.
            volumes: KFP's own folder, which is in the run's.
            **arguments: Of docker's ``containers.create``.

        Returns:
            The exit status.
        """
        stage = command[command.index(_STAGE_ARGUMENT) + 1]
        own = {
            "labels": {
                names.STAGE_LABEL: stage,
                names.RUN_LABEL: self._plan.info.run_id,
                FOLDER_LABEL: str(self._directory),
            },
            "shm_size": stage_container.num_bytes(self._plan.resources.stages[stage].shared_memory),
        }
        container = client.containers.create(image, command, **{**arguments, **own})
        try:
            container.start()
            status = self._wait(container)
            container.reload()
            self._words[stage] = _words(status, container.attrs["State"])
            print(container.logs().decode(errors="replace"), end="")
        except docker.errors.NotFound:
            self._words[stage] = "its container was removed by somebody"
            return 1
        finally:
            with contextlib.suppress(docker.errors.NotFound):
                container.remove(force=True)
        return status

    def last_words(self, stage: str) -> str:
        """How the container of a stage ended, unless it was well."""
        return self._words.get(stage, "")

    def check_reach(
        self,
        client: docker.DockerClient,
        image: str,
        variables: list[str],
        arguments: Mapping[str, Any],
    ) -> None:
        """Looks from inside a container for the servers that variables name.

        Raises:
            InputError: One cannot be reached.
        """
        if not variables:
            return
        labels = {FOLDER_LABEL: str(self._directory)}
        command = ["python3", "-c", _REACH, *variables]
        container = client.containers.create(image, command, labels=labels, **arguments)
        try:
            container.start()
            status = self._wait(container)
            output = container.logs().decode(errors="replace").strip()
        finally:
            container.remove(force=True)
        if status:
            name, _, problem = (output.splitlines() or [""])[-1].partition(" ")
            raise InputError(
                name,
                arguments["environment"].get(name, "").rpartition("@")[2],
                f"cannot be reached from a container ({problem or f'status {status}'})",
                fix="give an address that holds in this machine's network, which containers "
                "share, or use ENGINE=local",
            )

    def _wait(self, container: docker.models.containers.Container) -> int:
        """Waits, also while the engine is restarted: containers of Podman outlive that."""
        deadline: float | None = None
        while True:
            asked = time.monotonic()
            try:
                return int(container.wait()["StatusCode"])
            except docker.errors.APIError:  # an answer
                raise
            except requests.exceptions.RequestException as error:
                now = time.monotonic()
                if deadline is None or now - asked > _ENGINE_BACK_SECONDS:
                    deadline = now + _ENGINE_BACK_SECONDS
                if now > deadline:
                    raise lost(self._address) from error
                time.sleep(0.5)


def _words(status: int, state: Mapping[str, Any]) -> str:
    if status == 0:
        return ""
    if state.get("OOMKilled"):
        return f"its container ran out of memory (exit status {status})"
    if status == 128 + signal.SIGKILL:
        return "its container was killed, by somebody or because the machine ran out of memory"
    if status > 128:
        return f"its container was ended by signal {status - 128}"
    return f"its container ended with exit status {status}"


def remove_left_over(client: docker.DockerClient, directory: Path) -> None:
    """Removes containers of a run whose engine was killed; they end by themselves, as a rule."""
    mine: dict[str, str | list[str] | bool] = {"label": f"{FOLDER_LABEL}={directory}"}
    for container in client.containers.list(all=True, filters=mine, ignore_removed=True):
        with contextlib.suppress(docker.errors.NotFound):
            container.remove(force=True)


def check_tracking(environ: Mapping[str, str]) -> None:
    """Checks that MLflow is a server, when it is given.

    Raises:
        InputError: It is a file, which the images have no driver for.
    """
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    if uri and not uri.startswith(("http://", "https://")):
        raise InputError(
            "MLFLOW_TRACKING_URI",
            uri.rpartition("@")[2],
            "is not a server, as containers need",
            legal="http(s)://HOST:PORT",
            fix="unset it: a server over this machine's file runs while the pipeline does",
        )


@contextlib.contextmanager
def _tracking(environ: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The variable that leads containers to MLflow: images hold its client only."""
    if environ.get("MLFLOW_TRACKING_URI"):
        yield {}
        return
    from fpnas.services import mlflow_server

    with mlflow_server(home_directory(environ), environ=environ) as server:
        yield {"MLFLOW_TRACKING_URI": server.url, OWN_SERVER: server.url}


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[None]:
    """A folder for temporary files of containers, gone at the end."""
    path = directory / "scratch"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
