"""Sends images to a registry, and takes down the digests that it gave them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.images import BY_DIGEST
from containers.build import tagged
from containers.tool import Tool
from fpnas.errors import FpnasError, InputError


def push(tool: Tool, targets: Sequence[str], environ: Mapping[str, str] = os.environ) -> list[str]:
    """Pushes images that were built.

    Returns:
        ``fpnas-NAME=REPOSITORY@sha256:DIGEST`` for each, as ``FPNAS_IMAGES`` takes it.

    Raises:
        InputError: The images have no registry in their names, or were not built.
        FpnasError: The registry refuses.
    """
    names = {target: tagged(target, environ) for target in targets}
    for name in names.values():
        host, slash, _ = name.partition("/")
        if not slash or not any(mark in host for mark in ".:"):
            raise InputError(
                "IMAGE_PREFIX", name, "has no registry in it",
                fix="build and push with IMAGE_PREFIX=registry.example.com/team/fpnas",
            )  # fmt: skip
        if not tool.has(name):
            raise InputError(
                "IMAGE_PREFIX", name, "was not built", fix="make images with the same IMAGE_PREFIX"
            )
    return [f"fpnas-{target}={_push(tool, name)}" for target, name in names.items()]


def _push(tool: Tool, name: str) -> str:
    repository = name.rpartition(":")[0]
    if tool.name == "podman":
        # The digest that the registry has can differ from that of the layers kept here.
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as file:
            tool.run("push", "--digestfile", file.name, name)
            reference = f"{repository}@{Path(file.name).read_text(encoding='utf-8').strip()}"
    else:
        tool.run("push", name)
        known: list[str] = tool.inspect(name)["RepoDigests"]
        reference = next((r for r in known if r.startswith(f"{repository}@")), "")
    if not BY_DIGEST.fullmatch(reference):
        raise FpnasError(f"{tool.name} pushed {name} and named no digest of it")
    return reference
