"""The whole pipeline, over real S3 into real MLflow, in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fpnas.stages.base import STAGES
from pipelines.compile import compile_pipeline
from pipelines.graph import graph_of
from pipelines.plan import Request, make_plan

from .conftest import Workplace


def manifests(result: dict, workplace: Workplace) -> dict[str, dict]:
    """The manifests of a run's artifacts, read straight from the folder behind the S3 endpoint."""
    found = {}
    for stage in result["stages"]:
        path = workplace.folder / "home" / "s3" / stage["artifact"].removeprefix("s3://")
        found[stage["name"]] = json.loads((path / "manifest.json").read_text())
    return found


def test_the_document_names_everything_that_was_made(finished):
    workplace, result = finished
    assert [stage["name"] for stage in result["stages"]] == list(STAGES)
    assert all(stage["status"] == "finished" and not stage["cached"] for stage in result["stages"])
    search = result["search"]
    # An architecture that was drawn is run backward at most once, forward at most three times.
    assert 0 < search["num_backwards"] <= search["num_samples"]
    assert search["num_backwards"] < search["num_forwards"] <= 3 * search["num_samples"]
    assert 0 < result["architecture"]["macs"] <= result["architecture"]["target_macs"] == 120_000
    assert result["search"]["num_samples"] >= 20
    assert 0 <= result["train"]["top1"] <= 1
    assert 0 <= result["distill"]["top1"] <= 1
    assert result["registered_model"]["name"] == "fp-nas-n0"
    assert result["registered_model"]["aliases"] == ["challenger", "champion"]
    assert Path(result["report"]).read_text().startswith("<!doctype html>")
    assert set(result["mlflow"]) == {"tracking_uri", "experiment_id", "run_id"}
    stored = manifests(result, workplace)
    assert {name: m["kind"] for name, m in stored.items()} == {n: s.kind for n, s in STAGES.items()}


def test_mlflow_has_the_run_with_its_stages_and_the_registered_model(finished):
    import mlflow

    _, result = finished
    client = mlflow.MlflowClient(result["mlflow"]["tracking_uri"])
    parent = client.get_run(result["mlflow"]["run_id"])
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["macs"] == result["architecture"]["macs"]
    assert parent.data.metrics["top1_distill"] == result["distill"]["top1"]
    children = client.search_runs(
        [result["mlflow"]["experiment_id"]],
        f"tags.mlflow.parentRunId = '{parent.info.run_id}'",
    )
    assert {run.info.run_name for run in children} == set(STAGES)
    assert {run.info.status for run in children} == {"FINISHED"}
    coarse = next(run for run in children if run.info.run_name == "coarse")
    entropies = client.get_metric_history(coarse.info.run_id, "entropy_nats")
    assert [metric.step for metric in entropies] == list(range(1, 41))
    version = client.get_model_version_by_alias("fp-nas-n0", "champion")
    assert version.tags["architecture_sha256"] == result["architecture"]["sha256"]
    assert int(version.tags["macs"]) == result["architecture"]["macs"]
    assert int(version.tags["search_num_samples"]) == result["search"]["num_samples"]
    assert float(version.tags["search_seconds"]) > 0
    assert version.tags["run"] == result["run_id"]
    assert {"dataset_digest", "model_digest", "code_version", "latency_ms"} <= set(version.tags)
    assert result["architecture"]["string"] in version.description
    metrics = parent.data.metrics
    assert metrics["latency_ms"] == 1e3 * result["speed"]["measurements"][0]["median_seconds"]
    assert {"throughput_images_per_s", "latency_ms_onnx", "latency_ms_int8"} <= set(metrics)


def test_the_same_command_again_finds_everything(finished):
    workplace, result = finished
    again = workplace.run()
    assert all(stage["cached"] for stage in again["stages"])
    assert again["mlflow"] == result["mlflow"]
    assert again["registered_model"] == result["registered_model"]
    assert [s["artifact"] for s in again["stages"]] == [s["artifact"] for s in result["stages"]]


def test_a_changed_recipe_repeats_only_what_depends_on_it(finished):
    workplace, _ = finished
    changed = workplace.run("--set", "recipe.epochs=5")
    cached = {stage["name"]: stage["cached"] for stage in changed["stages"]}
    assert cached == {
        "prepare": True,
        "coarse": True,
        "fine": True,
        "decode": True,
        "train": False,
        "distill": False,
        "register": False,
    }


@pytest.mark.slow
def test_a_run_that_was_killed_three_times_ends_like_one_that_was_not(finished, workplace):
    reference, result = finished
    every_step = [
        word
        for stage in ("coarse", "fine", "train", "distill")
        for word in ("--set", f"{stage}.runtime.checkpoint_seconds=0")
    ]
    for stage, done in (("coarse", 6), ("fine", 6), ("train", 30)):
        process = workplace.start(*every_step)
        workplace.wait_for_progress(process, stage, done)
        process.kill()
        process.communicate(timeout=60)
    resumed = workplace.run(*every_step)
    assert not next(s for s in resumed["stages"] if s["name"] == "train")["cached"]
    folder = next((workplace.folder / "home" / "runs").glob("*/logs"))
    for stage in ("coarse", "fine", "train"):
        assert "resuming from" in (folder / f"{stage}.log").read_text(), stage
    before, after = manifests(result, reference), manifests(resumed, workplace)
    for name in STAGES:
        if name != "register":  # the report tells how long everything took
            assert after[name]["digest"] == before[name]["digest"], name
    summaries = [m["register"]["files"]["summary.json"] for m in (before, after)]
    assert summaries[0] == summaries[1]


def test_a_run_can_be_resumed_by_name_but_not_with_other_options(finished):
    workplace, result = finished
    base = ["run", "--resume", result["run_id"]]
    status, message = workplace.fails(*base, "--seed", "7")
    assert status == 2
    assert "SEED=7 differs from the run's 0" in message
    status, message = workplace.fails("run", "--resume", "nothing")
    assert status == 2
    assert result["run_id"] in message


def test_a_damaged_artifact_is_made_again(finished):
    workplace, result = finished
    decode = next(stage for stage in result["stages"] if stage["name"] == "decode")
    folder = workplace.folder / "home" / "s3" / decode["artifact"].removeprefix("s3://")
    victim = next(folder.rglob("architecture.json"))
    victim.write_text("{}")
    again = workplace.run()
    cached = {stage["name"]: stage["cached"] for stage in again["stages"]}
    assert not cached["decode"]
    assert cached["train"]  # what was made again is what it was
    assert again["architecture"] == result["architecture"]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_local_run_and_the_ir_are_the_same_dag(finished, tmp_path):
    path = tmp_path / "pipeline.yaml"
    compile_pipeline(make_plan(Request(space="sa_expanded", model="l1", profile="paper")), path)
    graph = graph_of(next(yaml.safe_load_all(path.read_text())))
    edges = {name: node.sources for name, node in graph.items()}
    assert set(edges) == set(STAGES)

    workplace, result = finished
    made = {stage["artifact"]: stage["name"] for stage in result["stages"]}
    local = {
        name: {role: made[parent["uri"]] for role, parent in manifest["parents"].items()}
        for name, manifest in manifests(result, workplace).items()
    }
    assert local == edges
