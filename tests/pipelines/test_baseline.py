"""Baselines: planned like a search, trained by the same recipe, found and resumed."""

from __future__ import annotations

import json
import signal

import pytest

from fpnas.cost import count_macs
from fpnas.errors import InputError
from fpnas.networks.named import NamedArchitecture, build_named
from pipelines.baseline import plan_baseline
from pipelines.plan import Request, make_plan

NAME = "mobilenet_v2@0.25/8"


def test_recipe_pictures_and_seed_are_those_of_the_search():
    request = Request(profile="laptop", seed=3, overrides=("recipe.epochs=9",))
    search, plan = make_plan(request), plan_baseline(NAME, request)
    assert plan.configs["prepare"] == search.configs["prepare"]
    train, baseline = search.configs["train"], plan.configs["baseline"]
    assert (baseline.recipe, baseline.seed) == (train.recipe, train.seed)
    assert baseline.input_size == search.space.input_size
    assert plan.info.kind == "baseline"
    words = "--space tiny --data digits --profile laptop --seed 3 --set recipe.epochs=9"
    assert plan.info.command == f"fpnas baseline {NAME} {words}"


def test_only_random_depends_on_the_space():
    one, other = (
        Request(model=model, overrides=("space.input_size=32",)) for model in ("t0", "t1")
    )
    assert plan_baseline(NAME, one).info.run_id == plan_baseline(NAME, other).info.run_id
    assert plan_baseline("random", one).info.run_id != plan_baseline("random", other).info.run_id


@pytest.mark.parametrize(
    ("name", "overrides", "problem"),
    [
        ("resnet", (), "is not a baseline"),
        ("random", ("baseline.num_candidates=0",), "baseline.num_candidates=0"),
        ("mnasnet", ("baseline.epochs=2",), "baseline.epochs=2 is not an option"),
    ],
)
def test_bad_input_ends_before_any_work(name, overrides, problem):
    with pytest.raises(InputError, match=problem):
        plan_baseline(name, Request(overrides=overrides))


@pytest.fixture(scope="module")
def trained(finished):
    workplace, _ = finished
    return workplace, {name: workplace.baseline(name) for name in (NAME, "random")}


def stored(workplace, result, name):
    """A file of the baseline's artifact, read straight from the folder behind the S3 endpoint."""
    uri = result["stages"][-1]["artifact"]
    folder = workplace.folder / "home" / "s3" / uri.removeprefix("s3://")
    (path,) = folder.rglob(name)
    return json.loads(path.read_text())


def digests(workplace, result):
    """Of everything that the stage made."""
    files = stored(workplace, result, "manifest.json")["files"]
    return {name: info["sha256"] for name, info in files.items()}


def test_the_document_has_the_figures_of_a_search_but_no_search(trained, finished):
    workplace, results = trained
    _, searched = finished
    for name, result in results.items():
        assert set(searched) <= set(result)
        assert (result["search"], result["distill"], result["report"]) == (None, None, None)
        model = stored(workplace, result, "model.json")
        scores = {**model["evaluation"], "calibration_error": model["calibration_error"]}
        assert result["train"] == scores
        assert result["baseline"]["name"] == name
        assert result["stages"][0]["artifact"] == searched["stages"][0]["artifact"]
    network = build_named(NamedArchitecture.parse(NAME, 16), 10)
    assert results[NAME]["architecture"]["macs"] == count_macs(network, 16)
    assert results[NAME]["baseline"]["candidates"] == []


def test_random_takes_the_best_of_its_candidates(trained):
    _, results = trained
    result = results["random"]
    candidates = result["baseline"]["candidates"]
    assert len(candidates) == 3
    best = max(candidates, key=lambda candidate: candidate["top1"])
    assert result["architecture"]["string"] == best["string"]
    assert result["architecture"]["macs"] == best["macs"]
    assert all(c["macs"] <= result["architecture"]["target_macs"] for c in candidates)


def test_it_stands_beside_the_searches(trained, finished):
    import mlflow

    workplace, results = trained
    _, searched = finished
    client = mlflow.MlflowClient(searched["mlflow"]["tracking_uri"])
    metrics = client.get_run(searched["mlflow"]["run_id"]).data.metrics
    for name, result in results.items():
        assert result["mlflow"]["experiment_id"] == searched["mlflow"]["experiment_id"]
        parent = client.get_run(result["mlflow"]["run_id"])
        assert parent.info.status == "FINISHED"
        assert parent.data.tags["fpnas.kind"] == "baseline"
        assert parent.data.tags["fpnas.baseline"] == name
        assert parent.data.metrics["top1"] == result["train"]["top1"]
        shared = {"top1", "top5", "calibration_error", "macs", "params", "latency_ms"}
        shared |= {"throughput_images_per_s", "total_seconds"}
        assert shared <= set(metrics) & set(parent.data.metrics)
    rows = json.loads(workplace.call("compare", "--json"))
    tops = {row["run"]: row["top1"] for row in rows}
    assert {r["run_id"] for r in [searched, *results.values()]} <= set(tops)
    assert tops[results[NAME]["run_id"]] == results[NAME]["train"]["top1"]


def test_the_same_command_again_finds_it(trained):
    workplace, results = trained
    again = workplace.baseline("random")
    assert all(stage["cached"] for stage in again["stages"])
    assert again["mlflow"] == results["random"]["mlflow"]
    status, message = workplace.fails("register", again["run_id"])
    assert status == 2
    assert "is a baseline" in message


@pytest.mark.parametrize("done", [2, 60])
def test_a_stopped_one_goes_on_and_ends_with_the_same_weights(trained, workplace, done):
    slow = (
        "--set",
        "baseline.runtime.checkpoint_seconds=0",
        "--set",
        "baseline.candidate_epochs=6",
    )
    process = workplace.start_baseline("random", *slow)
    workplace.wait_for_progress(process, "baseline", done)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    resumed = workplace.baseline("random", *slow)
    whole = trained[0].baseline("random", *slow)
    assert digests(workplace, resumed) == digests(trained[0], whole)
