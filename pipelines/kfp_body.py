"""What is sent to Kubeflow Pipelines for a plan, and what is read from its answers."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fpnas.errors import InputError
from fpnas.stages.base import ALL_STAGES
from pipelines.compile import Compilable, compile_pipeline

_ROOT = re.compile(r"^s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/[^\s?#]*)?$")


def run_body(
    plan: Compilable,
    pipeline_root: str | None,
    service_account: str,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, Any]:
    """The body of a run or a recurring run, but for its name and its experiment.

    Args:
        plan: The run.
        pipeline_root: Where KFP puts references to artifacts; beside the artifacts by default.
        service_account: Of the pods.
        environ: ``FPNAS_STORAGE``.

    Raises:
        InputError: A root that is not on S3, or pictures or a teacher that a cluster cannot read.
    """
    storage = environ.get("FPNAS_STORAGE") or "s3://fpnas"
    root = pipeline_root or f"{storage.rstrip('/')}/kfp"
    if not _ROOT.match(root):
        raise InputError(
            "--pipeline-root",
            root,
            "is not on S3",
            legal="s3://bucket/prefix",
            fix="give a bucket that the cluster's pods can write to",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compile_pipeline(plan, path)
        specification, platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    return {
        "pipeline_spec": {"pipeline_spec": specification, "platform_spec": platform},
        "runtime_config": {"parameters": dict(plan.parameters()), "pipeline_root": root},
        "service_account": service_account,
    }


def cron_of(text: str) -> str:
    """A schedule as KFP writes it: with seconds first.

    Raises:
        InputError: It has not five or six fields.
    """
    fields = text.split()
    if len(fields) not in (5, 6) or not all(re.fullmatch(r"[\w*?/,#-]+", f) for f in fields):
        raise InputError(
            "CRON",
            text,
            "is not a schedule",
            legal="minute hour day month weekday, with seconds before them or without",
            fix="for example '0 3 * * 1', Mondays at three",
        )
    return " ".join(fields if len(fields) == 6 else ["0", *fields])


def tasks(run: Mapping[str, Any]) -> list[dict[str, str]]:
    """State and error of every stage of a run, as far as KFP knows them."""
    details = run.get("run_details", {}).get("task_details", [])
    return [
        {
            "stage": task["display_name"],
            "state": task.get("state", "PENDING"),
            "error": task.get("error", {}).get("message", ""),
        }
        for task in details
        if task.get("display_name") in ALL_STAGES
    ]
