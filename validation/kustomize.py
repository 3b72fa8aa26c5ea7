"""Build the overlays and components under ``k8s/`` with kubectl's kustomize."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from fpnas.errors import InputError
from validation.objects import Manifest

K8S = Path(__file__).parents[1] / "k8s"


def overlays() -> list[str]:
    """Returns the names of the overlays."""
    return sorted(folder.name for folder in (K8S / "overlays").iterdir() if folder.is_dir())


def components() -> list[str]:
    """Returns the names of the components."""
    return sorted(folder.name for folder in (K8S / "components").iterdir() if folder.is_dir())


def combinations() -> Iterator[tuple[str, ...]]:
    """Yields the sets of components that are checked on the base: none, each, each pair and all.

    A component can clash with another one only by what both add or change, so pairs find it.
    """
    names = components()
    for size in (0, 1, 2):
        yield from itertools.combinations(names, size)
    yield tuple(names)


def build(folder: Path) -> list[Manifest]:
    """Returns the objects that a folder's kustomization makes.

    Raises:
        InputError: If kustomize refuses it; the message is kustomize's.
    """
    command = [kubectl(), "kustomize", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if built.returncode:
        raise InputError(
            "kustomization",
            folder,
            f"does not build: {built.stderr.strip()}",
            fix="correct the file that the message names",
        )
    return [manifest for manifest in yaml.safe_load_all(built.stdout) if manifest]


def build_base(with_components: Sequence[str]) -> list[Manifest]:
    """Returns the objects of the base with some components."""
    with tempfile.TemporaryDirectory() as folder:
        # Kustomize takes no absolute paths, and on macOS the temporary folder is a link.
        root = os.path.relpath(K8S, Path(folder).resolve())
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{root}/base"],
            "components": [f"{root}/components/{name}" for name in with_components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return build(Path(folder))


def kubectl() -> str:
    """Returns the path of the environment's kubectl, else of the one on the PATH.

    Raises:
        InputError: If there is none.
    """
    own = Path(sys.executable).with_name("kubectl")
    found = str(own) if own.exists() else shutil.which("kubectl")
    if found is None:
        raise InputError("kubectl", "(none)", "is not installed", fix="run `make setup`")
    return found
