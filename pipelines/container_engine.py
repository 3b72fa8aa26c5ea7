"""Finding the container engine of this machine, and in it the images of the stages."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import docker
import docker.errors
import docker.models.images

from components.images import CODE_LABEL, FAMILIES, code_digest
from fpnas.doctor import Check
from fpnas.errors import FpnasError, InputError
from pipelines.graph import pipeline_graph

_UNIX = "unix://"
_START = (
    "install and start Docker or Podman (`systemctl --user start podman.socket`), or set "
    "DOCKER_HOST=unix://PATH, or use ENGINE=local"
)


def sockets(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Where an engine may listen: what ``DOCKER_HOST`` names, else the usual places.

    Raises:
        InputError: ``DOCKER_HOST`` is not a socket of this machine.
    """
    given = environ.get("DOCKER_HOST")
    if given:
        if not given.startswith(_UNIX):
            raise InputError(
                "DOCKER_HOST",
                given,
                "is not a socket of this machine, whose folders the containers need",
                legal="unix://PATH",
                fix="unset it, or use the engine kfp or argo for other machines",
            )
        return [Path(given.removeprefix(_UNIX))]
    places = [Path("/var/run/docker.sock"), Path("/run/podman/podman.sock")]
    runtime = environ.get("XDG_RUNTIME_DIR")
    return [*places, Path(runtime, "podman/podman.sock")] if runtime else places


def find_engine(environ: Mapping[str, str] = os.environ) -> str:
    """The address of the first engine that answers, such as ``unix:///var/run/docker.sock``.

    Raises:
        InputError: None does.
    """
    tried: list[str] = []
    for path in sockets(environ):
        if not path.exists():
            tried.append(f"{path} (not there)")
        elif not os.access(path, os.R_OK | os.W_OK):
            tried.append(f"{path} (no permission; add yourself to its group)")
        else:
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
                try:
                    connection.connect(str(path))
                except OSError as error:
                    tried.append(f"{path} (does not answer: {error.strerror})")
                else:
                    return f"{_UNIX}{path}"
    raise InputError(
        "ENGINE", "docker", f"finds no container engine at {', '.join(tried)}", fix=_START
    )


@contextlib.contextmanager
def connected(address: str) -> Iterator[docker.DockerClient]:
    """A client of the engine at an address, while the block runs.

    Raises:
        InputError: What listens there is no container engine.
    """
    try:
        client = docker.DockerClient(base_url=address)
    except docker.errors.DockerException as error:
        raise InputError(
            "ENGINE", "docker", f"gets no sense from {address} ({error})", fix=_START
        ) from error
    try:
        yield client
    finally:
        client.close()


def stage_images(client: docker.DockerClient, pipeline: str) -> dict[str, str]:
    """The id of every stage's image.

    Args:
        client: Of the engine.
        pipeline: Its name in :mod:`pipelines.definition`.

    Raises:
        InputError: An image is missing, or holds other code than runs here.
    """
    named = {stage: node.image for stage, node in pipeline_graph(pipeline).items()}
    looked = {name: _image(client, name) for name in set(named.values())}
    found = {name: image for name, image in looked.items() if image is not None}
    missing = sorted(looked.keys() - found.keys())
    fix = "build them: make images"
    if missing:
        raise InputError("images", ", ".join(missing), "are not there", fix=fix)
    family_of = {stage: family for family, stages in FAMILIES.items() for stage in stages}
    families = {name: family_of[stage] for stage, name in named.items()}
    others = sorted(
        name
        for name, image in found.items()
        if image.labels.get(CODE_LABEL) != code_digest(families[name])
    )
    if others:
        raise InputError(
            "images",
            ", ".join(others),
            f"hold other code than this (by their label {CODE_LABEL})",
            fix=fix,
        )
    return {stage: str(found[name].id) for stage, name in named.items()}


def _image(client: docker.DockerClient, name: str) -> docker.models.images.Image | None:
    # Podman puts what was built here, and has no registry in its name, under "localhost".
    for candidate in (name, f"localhost/{name}"):
        with contextlib.suppress(docker.errors.ImageNotFound):
            return client.images.get(candidate)
    return None


def checks(environ: Mapping[str, str] = os.environ) -> list[Check]:
    """What ``fpnas doctor`` looks at before stages run in containers."""
    try:
        address = find_engine(environ)
        with connected(address) as client:
            parts = client.version().get("Components") or [{"Name": "an engine", "Version": ""}]
            what = f"{parts[0]['Name']} {parts[0]['Version']}".strip()
            found = [Check("container engine", "ok", f"{what} at {address}")]
            try:
                number = len(set(stage_images(client, "fpnas_pipeline").values()))
            except InputError as error:
                detail = f"{error.value} {error.problem}"
                return [*found, Check("images", "fail", detail, error.fix)]
            return [*found, Check("images", "ok", f"{number} images, of this code")]
    except InputError as error:
        return [Check("container engine", "fail", error.problem, error.fix)]


def lost(address: str) -> FpnasError:
    """What to say when the engine has gone away."""
    return FpnasError(
        f"the container engine at {address} does not answer any more; start it, and run the same "
        "command again: finished stages are kept, and this one resumes"
    )
