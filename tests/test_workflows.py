"""GitHub's workflows: what their own checkers do not know."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml

from fpnas.cli import app
from pipelines import names

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def load(path):
    """A workflow; YAML reads its key ``on`` as true."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {**document, "on": document.pop(True)}


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_workflow_may_little_and_runs_only_what_is_pinned(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    assert all(job["timeout-minutes"] for job in workflow["jobs"].values())
    assert workflow["concurrency"]["group"]
    for step in steps(workflow):
        if "uses" in step:
            assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
        # What somebody typed must come as a variable; here it would be a part of the script.
        assert "${{" not in step.get("run", "")


def test_retraining_calls_the_command_with_options_that_it_has():
    workflow = load(ROOT / ".github" / "workflows" / "retrain.yml")
    (step,) = [step for step in steps(workflow) if "fpnas retrain" in step.get("run", "")]
    command = typer.main.get_command(app).commands["retrain"]
    known = {option for parameter in command.params for option in parameter.opts}
    used = set(re.findall(r"(?<=[( ])--[a-z-]+", step["run"]))
    assert used == {"--space", "--model", "--data", "--profile", "--engine", "--force"}
    assert used <= known
    inputs = workflow["on"]["workflow_dispatch"]["inputs"]
    assert {f"--{name}" for name in inputs} == used
    assert workflow["concurrency"]["cancel-in-progress"] is False
    assert workflow["on"]["schedule"]
    assert "fpnas/**" in workflow["on"]["push"]["paths"]


def test_retraining_finds_the_storage_that_pods_use():
    workflow = load(ROOT / ".github" / "workflows" / "retrain.yml")
    (step,) = [step for step in steps(workflow) if "fpnas retrain" in step.get("run", "")]
    assert {*names.STORAGE_KEYS, *names.OPTIONAL_STORAGE_KEYS} <= set(step["env"])
    # An empty region is none that boto3 knows.
    assert step["env"]["AWS_DEFAULT_REGION"].endswith("|| 'us-east-1' }}")


def test_every_secret_reaches_one_step_only():
    text = (ROOT / ".github" / "workflows" / "retrain.yml").read_text(encoding="utf-8")
    secrets = re.findall(r"secrets\.\w+", text)
    assert len(secrets) == len(set(secrets))
    workflow = yaml.safe_load(text)
    assert "env" not in workflow
    assert all("env" not in job and job["environment"] for job in workflow["jobs"].values())
