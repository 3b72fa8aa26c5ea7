"""Podman or Docker, whichever there is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fpnas.errors import FpnasError, InputError

TOOLS = ("podman", "docker")


@dataclass(frozen=True)
class Tool:
    """A container engine's command.

    Attributes:
        name: ``podman`` or ``docker``.
    """

    name: str

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command of it.

        Raises:
            FpnasError: It failed, and ``check`` is set.
        """
        done = subprocess.run(  # noqa: S603
            [self.name, *words], capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise FpnasError(
                f"{' '.join((self.name, *words))} failed with status {done.returncode}: "
                f"{done.stderr.strip()}"
            )
        return done

    def has(self, image: str) -> bool:
        """Whether an image is on this machine."""
        return self.run("image", "inspect", image, check=False).returncode == 0

    def inspect(self, image: str) -> dict[str, Any]:
        """What the tool knows of an image: ``Size`` in bytes, ``RootFS.Layers``, ``Config``.

        Raises:
            FpnasError: There is no such image.
        """
        found: list[dict[str, Any]] = json.loads(self.run("image", "inspect", image).stdout)
        return found[0]


def find_tool(name: str | None = None, environ: Mapping[str, str] = os.environ) -> Tool:
    """Returns the tool of that name, or the first of :data:`TOOLS` that works here.

    Raises:
        InputError: There is none, or the one that is wanted does not answer.
    """
    wanted: Sequence[str] = (name,) if name else TOOLS
    if name and name not in TOOLS:
        raise InputError(
            "TOOL", name, "is not a container engine that is known",
            legal=", ".join(TOOLS), fix="name one of them, or leave it out",
        )  # fmt: skip
    trouble = []
    for candidate in wanted:
        if shutil.which(candidate, path=environ.get("PATH")) is None:
            trouble.append(f"{candidate} is not installed")
            continue
        tool = Tool(candidate)
        done = tool.run("info", check=False)
        if done.returncode == 0:
            return tool
        last = done.stderr.strip().splitlines() or ["no answer"]
        trouble.append(f"{candidate} does not work ({last[-1]})")
    raise InputError(
        "TOOL", name or "(not given)", f"leads to no container engine: {'; '.join(trouble)}",
        fix="install podman (apt-get install podman buildah) or Docker, and start its service",
    )  # fmt: skip
