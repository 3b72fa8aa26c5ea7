"""The pipeline as KFP's intermediate representation, for a cluster."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Compilable(Protocol):
    """A plan of a search or of a baseline."""

    @property
    def pipeline(self) -> str:
        """Its pipeline's name in :mod:`pipelines.definition`."""

    def parameters(self) -> Mapping[str, str]:
        """The pipeline's parameters."""


def compile_pipeline(plan: Compilable, path: Path) -> None:
    """Writes the IR of a plan: the pipeline with the plan's configurations as its defaults.

    Args:
        plan: The run; its parameters become the defaults, each of which a submission can replace.
        path: Of the YAML file; replaced only by a whole new one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of KFP and its dependencies
        from kfp import compiler

        from pipelines import definition

        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.tmp.yaml")
        try:
            compiler.Compiler().compile(
                getattr(definition, plan.pipeline),
                package_path=str(temporary),
                pipeline_parameters=dict(plan.parameters()),
            )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
