"""The pipeline as KFP's intermediate representation, for a cluster."""

from __future__ import annotations

import warnings
from pathlib import Path

from pipelines.plan import Plan


def compile_pipeline(plan: Plan, path: Path) -> None:
    """Writes the IR of a plan: the pipeline with the plan's configurations as its defaults.

    Args:
        plan: The run; its parameters become the defaults, each of which a submission can replace.
        path: Of the YAML file; replaced only by a whole new one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of KFP and its dependencies
        from kfp import compiler

        from pipelines.definition import fpnas_pipeline

        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.stem}.tmp.yaml")
        try:
            compiler.Compiler().compile(
                fpnas_pipeline,
                package_path=str(temporary),
                pipeline_parameters=plan.parameters(),
            )
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
