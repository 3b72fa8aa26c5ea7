"""The pipeline as a file for a cluster: KFP's intermediate representation, or Argo's template."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from fpnas.errors import InputError, closest
from fpnas.stages.base import RunInfo
from pipelines.plan import Request
from pipelines.resources import ResourceTable

ENGINES = ("kfp", "argo")


class Compilable(Protocol):
    """A plan of a search or of a baseline."""

    @property
    def pipeline(self) -> str:
        """Its pipeline's name in :mod:`pipelines.definition`."""

    @property
    def request(self) -> Request:
        """What was asked for."""

    @property
    def info(self) -> RunInfo:
        """Names the run."""

    @property
    def resources(self) -> ResourceTable:
        """What every stage gets."""

    def parameters(self) -> Mapping[str, str]:
        """The pipeline's parameters."""


def compile_pipeline(plan: Compilable, path: Path, engine: str = "kfp") -> None:
    """Writes the pipeline with the plan's configurations as its defaults.

    Args:
        plan: The run; its parameters become the defaults, each of which a submission can replace.
        path: Of the YAML file; replaced only by a whole new one.
        engine: See :data:`ENGINES`.

    Raises:
        InputError: An unknown engine, or pictures that a cluster cannot read.
    """
    if engine not in ENGINES:
        raise InputError(
            "ENGINE",
            engine,
            "is not an engine of a cluster",
            legal=", ".join(ENGINES),
            fix=closest(engine, ENGINES),
        )
    check_data(plan.request.data)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.yaml")
    try:
        if engine == "kfp":
            _write_ir(plan, temporary)
        else:
            from pipelines.argo import workflow_template

            temporary.write_text(workflow_template(plan), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_ir(plan: Compilable, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of KFP and its dependencies
        from kfp import compiler

        from pipelines.definition import BUILDERS
        from pipelines.kfp_place import placer

        compiler.Compiler().compile(
            BUILDERS[plan.pipeline](placer(plan)),
            package_path=str(path),
            pipeline_parameters=dict(plan.parameters()),
        )


def check_data(data: str) -> None:
    """Checks that a pod can read the pictures.

    Raises:
        InputError: They are in a folder or an archive of this machine.
    """
    if "://" not in data and Path(data).exists():
        raise InputError(
            "DATA",
            data,
            "is on this machine, where no pod of a cluster can read it",
            legal="s3://bucket/prefix, or the name of a data set",
            fix=f"copy it to S3 and give its address: aws s3 cp --recursive {data} s3://...",
        )
