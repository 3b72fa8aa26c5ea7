"""Check the manifests for a cluster, or render one overlay: `python -m validation --help`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console
from rich.table import Table

from fpnas.errors import FpnasError, InputError, run_command
from validation import (
    capacity,
    events,
    images,
    kustomize,
    network,
    pipelines,
    pod_security,
    references,
    schemas,
)
from validation.objects import Finding, Manifest

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def check(manifests: list[Manifest]) -> list[Finding]:
    """Runs all checks; the later ones need objects of the right shape, so schemas come first."""
    findings = schemas.check(manifests)
    for rules in (pod_security, references, events, network, capacity):
        findings += [] if findings else rules.check(manifests)
    return findings


@app.command()
def k8s(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Overlays of your own; default: all in k8s/ and the components."),
    ] = None,
) -> None:
    """Build and check overlays."""
    table = Table("manifests", "objects", "problems", box=None)
    findings: list[Finding] = []
    if folders:
        built = [(str(folder), kustomize.build(folder)) for folder in folders]
    else:
        built = [
            (f"overlays/{name}", kustomize.build(kustomize.K8S / "overlays" / name))
            for name in kustomize.overlays()
        ]
        built += [
            (" + ".join(("base", *names)), kustomize.build_base(names))
            for names in kustomize.combinations()
        ]
    for name, manifests in built:
        found = check(manifests)
        findings += found
        table.add_row(name, str(len(manifests)), "\n".join(map(str, found)) or "none")
    Console().print(table)
    raise SystemExit(bool(findings))


@app.command(name="pipelines")
def check_pipelines() -> None:
    """Compile every space and profile for Kubeflow Pipelines and Argo, and check the files."""
    table = Table("pipeline", "problems", box=None)
    findings: list[Finding] = []
    for case in pipelines.CASES:
        found = pipelines.check(case)
        findings += found
        table.add_row(str(case), "\n".join(map(str, found)) or "none")
    Console().print(table)
    raise SystemExit(bool(findings))


@app.command()
def render(
    overlay: Annotated[str, typer.Argument(help="A name in k8s/overlays, or a folder.")],
    output: Annotated[Path, typer.Option(help="The file to write.")],
    image: Annotated[
        list[str] | None, typer.Option(help="NAME=REPOSITORY@sha256:DIGEST; one for every image.")
    ] = None,
) -> None:
    """Write an overlay with its images by digest, for `kubectl apply -f`."""
    folder = kustomize.K8S / "overlays" / overlay
    folder = folder if folder.exists() else Path(overlay).resolve()
    if not (folder / "kustomization.yaml").exists():
        raise InputError(
            "overlay", overlay, "does not exist",
            legal=", ".join(kustomize.overlays()), fix="name one of them, or a folder of your own",
        )  # fmt: skip
    pins = images.kustomize_images(image or [], images.names(kustomize.build(folder)))
    with tempfile.TemporaryDirectory() as pinned:
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(folder, Path(pinned).resolve())],
            "images": pins,
        }
        (Path(pinned) / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        manifests = kustomize.build(Path(pinned))
    findings = [*check(manifests), *images.unpinned(manifests)]
    if findings:
        raise FpnasError("\n".join(map(str, findings)))
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_suffix(".partial")
    partial.write_text(yaml.safe_dump_all(manifests, sort_keys=False))
    partial.replace(output)


def main() -> None:
    """Runs a command; an error is one message and its exit status."""
    run_command(app)


if __name__ == "__main__":
    main()
