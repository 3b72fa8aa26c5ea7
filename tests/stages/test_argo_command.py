"""The command of Argo's template runs a stage: what the controller would do, in two processes."""

from __future__ import annotations

import subprocess
import sys

import yaml

from pipelines.argo import workflow_template
from pipelines.plan import Request, make_plan


def run_as_argo(template, stage, bench, folder, **inputs):
    """Runs a stage's command with its files and parameters put in place."""
    own = next(t for t in template["spec"]["templates"] if t["name"] == stage)
    defaults = {p["name"]: p["value"] for p in template["spec"]["arguments"]["parameters"]}
    values = {"config": defaults[f"{stage}_config"], "run": defaults["run"], **inputs}

    def substituted(text):
        for name, value in values.items():
            text = text.replace(f"{{{{inputs.parameters.{name}}}}}", value)
        for path in (*(a["path"] for a in own["inputs"]["artifacts"]), output):
            text = text.replace(path, str(folder / path.lstrip("/").replace("/", "-")))
        return text

    output = own["outputs"]["parameters"][0]["valueFrom"]["path"]
    for artifact in own["inputs"]["artifacts"]:
        (folder / substituted(artifact["path"]).rpartition("/")[2]).write_text(
            substituted(artifact["raw"]["data"])
        )
    program, *words = own["container"]["command"]
    assert program == "fpnas"
    done = subprocess.run(
        [sys.executable, "-m", "fpnas.cli", *map(substituted, words)],
        env=bench.environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return (folder / output.lstrip("/").replace("/", "-")).read_text()


def test_the_address_that_a_stage_writes_is_the_next_ones_input(bench, tmp_path):
    few = ("prepare.max_images_per_class=8", "coarse.search.num_steps=2", "coarse.batch_size=8")
    short = ("coarse.search.warmup_steps=1",)
    plan = make_plan(Request(overrides=(*few, *short)))
    template = yaml.safe_load(workflow_template(plan))
    dataset = run_as_argo(template, "prepare", bench, tmp_path)
    assert dataset.startswith("s3://")
    state = run_as_argo(template, "coarse", bench, tmp_path, dataset=dataset)
    assert state.startswith("s3://")
    assert state != dataset
