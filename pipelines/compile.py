"""The pipeline as a file for a cluster: KFP's intermediate representation, or Argo's template."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from fpnas.data.sources import BUILT_IN
from fpnas.errors import InputError, closest
from fpnas.stages.base import RunInfo
from fpnas.stages.config import StageConfig
from pipelines.resources import ResourceTable

ENGINES = ("kfp", "argo")


class Compilable(Protocol):
    """A plan of a search or of a baseline."""

    @property
    def pipeline(self) -> str:
        """Its pipeline's name in :mod:`pipelines.definition`."""

    @property
    def info(self) -> RunInfo:
        """Names the run."""

    @property
    def configs(self) -> Mapping[str, StageConfig]:
        """The configuration of every stage."""

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
        InputError: An unknown engine, or pictures or a teacher that a cluster cannot read.
    """
    if engine not in ENGINES:
        raise InputError(
            "ENGINE",
            engine,
            "is not an engine of a cluster",
            legal=", ".join(ENGINES),
            fix=closest(engine, ENGINES),
        )
    check_reachable(plan)
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


def check_reachable(plan: Compilable) -> None:
    """Checks that pods can read what the stages are given.

    Raises:
        InputError: The pictures or the teacher are files of this machine, or nothing known.
    """
    from fpnas.stages import distill, prepare

    preparation, distillation = plan.configs["prepare"], plan.configs.get("distill")
    assert isinstance(preparation, prepare.Config)
    _check_data(preparation.data)
    if not isinstance(distillation, distill.Config):
        return
    if distillation.teacher.startswith("local:"):
        raise InputError(
            "distill.teacher",
            distillation.teacher,
            "is on this machine, where no pod of a cluster can read it",
            legal="a teacher's name, torchvision:NAME, timm:NAME, or mlflow:NAME@ALIAS",
            fix="register it in MLflow and give mlflow:NAME@ALIAS",
        )
    if distillation.teacher_classes is not None:
        raise InputError(
            "distill.teacher_classes",
            distillation.teacher_classes,
            "is on this machine, where no pod of a cluster can read it",
            fix="leave it out, with a teacher whose classes are ImageNet's or that is in MLflow",
        )


def _check_data(data: str) -> None:
    if data in BUILT_IN or data.startswith("s3://"):
        return
    here = Path(data).expanduser()
    if "://" not in data and here.exists():
        problem = "is on this machine, where no pod of a cluster can read it"
        fix = f"copy it to S3 and give its address: aws s3 cp --recursive {here} s3://..."
    else:
        problem = "is nothing that a pod of a cluster can read"
        fix = "give s3://bucket/prefix" if "/" in data else closest(data, BUILT_IN)
    legal = f"s3://bucket/prefix, or {', '.join(BUILT_IN)}"
    raise InputError("DATA", data, problem, legal=legal, fix=fix)
