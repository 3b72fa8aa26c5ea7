"""The baseline stage in one process: what it trains, and that it can be stopped anywhere."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import yaml

from fpnas.errors import InputError, ServiceDownError, StoppedError
from fpnas.networks.named import NamedArchitecture
from fpnas.space import parse_space
from fpnas.stages import baseline, measuring
from fpnas.stages.config import SpaceConfig
from fpnas.stages.training import load_model
from fpnas.state import pack, unpack
from tests.pipelines.conftest import SPACE

from .folder_stage import RECIPE, Folder, Metrics, make_pictures

DEFINITION = yaml.safe_load(SPACE)
TARGET = parse_space(DEFINITION, "here").open().target_macs
PLACE = SpaceConfig(definition=DEFINITION, model="n0", input_size=16, target_macs=TARGET)
RANDOM = {"name": "random", "space": PLACE, "num_candidates": 3, "candidate_epochs": 2}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(autouse=True)
def told(monkeypatch):
    """What the pipeline's MLflow run is told; and no stop watch."""
    found = []
    monkeypatch.setattr(baseline, "log_parent", lambda *arguments: found.append(arguments))
    monkeypatch.setattr(measuring, "measure_model", lambda network, info: {"measurements": []})
    return found


def run(pictures, folder, stop_after="never", saved=None, **config):
    """Trains, or goes on; returns the artifact and the checkpoints by message."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    checkpoints = {}

    def after_step(_done, _total, state, message):
        tensors, structure = pack(state())
        copies = {name: tensor.clone() for name, tensor in tensors.items()}
        checkpoints[message.split(",")[0]] = (copies, structure)
        if message.startswith(stop_after):
            raise StoppedError("stopped")

    def save(state):
        after_step(0, 0, lambda: state, "at the end")

    runtime = {"device": "cpu", "tracking_seconds": 0}
    section = {"recipe": RECIPE, "input_size": 16, "runtime": runtime, **config}
    context = SimpleNamespace(
        config=baseline.Config.parse(section, "baseline"),
        stage=SimpleNamespace(name="baseline", finish_command=lambda _: "fpnas baseline again"),
        info=None,
        stop_requested=lambda: False,
        inputs={"dataset": Folder(pictures)},
        output=Folder(folder / "model"),
        tracking=Metrics(),
        restore=lambda: saved and unpack(*saved),
        after_step=after_step,
        save=save,
    )
    try:
        baseline.run(context)
    except (StoppedError, ServiceDownError) as error:
        checkpoints["error"] = error
        return None, checkpoints
    return context.output, checkpoints


def test_a_published_network_is_trained_and_read_back(pictures, tmp_path, told):
    artifact, _ = run(pictures, tmp_path, name="mobilenet_v3_small@0.25/8")
    network, info = load_model(artifact)
    summary = artifact.read_json("summary.json")
    expected = NamedArchitecture("mobilenet_v3_small", 16, 0.25, 8)
    assert summary["architecture"]["sha256"] == expected.sha256
    assert summary["architecture"]["params"] == sum(p.numel() for p in network.parameters())
    assert summary["train"] == {
        **info["evaluation"],
        "calibration_error": info["calibration_error"],
    }
    assert (summary["search"], summary["distill"]) == (None, None)
    assert told[0][1] == summary


def test_random_chooses_by_pictures_that_have_no_part_in_the_score(pictures, tmp_path):
    artifact, seen = run(pictures, tmp_path, **RANDOM)
    candidates = artifact.read_json("summary.json")["baseline"]["candidates"]
    best = max(candidates, key=lambda candidate: candidate["top1"])
    assert artifact.read_json("summary.json")["architecture"]["string"] == best["string"]
    assert all(candidate["macs"] <= TARGET for candidate in candidates)
    assert len({candidate["string"] for candidate in candidates}) > 1
    assert artifact.bill["num_candidates"] == 3
    # Half of the training pictures train a candidate, all of them the best.
    steps = {name.split(" ")[0]: name for name in seen}
    assert steps.pop("at") == "at the end"
    assert set(steps) == {"candidate_0", "candidate_1", "candidate_2", "epoch"}
    counts = {phase: sum(name.startswith(f"{phase} ") for name in seen) for phase in steps}
    assert 1.8 * counts["candidate_0"] < counts["epoch"] < 2.3 * counts["candidate_0"]


def test_another_seed_draws_other_candidates():
    one, two = (
        baseline.draw(baseline.Config(recipe=RECIPE, input_size=16, seed=seed, **RANDOM), 2)
        for seed in (0, 1)
    )
    assert [str(a) for a in one] != [str(a) for a in two]


@pytest.mark.parametrize("stop", ["candidate_0 1.0", "candidate_1 2.0", "candidate_2", "epoch 1.0"])
def test_a_stopped_one_ends_with_the_same_weights(pictures, tmp_path, stop):
    whole, seen = run(pictures, tmp_path / "whole", **RANDOM)
    _, left = run(pictures, tmp_path / "cut", stop_after=stop, **RANDOM)
    assert isinstance(left.pop("error"), StoppedError)
    last = list(left.values())[-1]
    resumed, again = run(pictures, tmp_path / "cut", saved=last, **RANDOM)
    assert resumed.read_json("summary.json") == whole.read_json("summary.json")
    expected, found = (a.read_tensors("model.safetensors") for a in (whole, resumed))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(again) < len(seen)


def test_when_mlflow_is_away_at_the_end_nothing_is_trained_again(pictures, tmp_path, monkeypatch):
    whole, _ = run(pictures, tmp_path / "whole", **RANDOM)
    log = baseline.log_parent

    def refuse(*_arguments):
        raise InputError("MLFLOW_TRACKING_URI", "http://there", "cannot be used", fix="start it")

    monkeypatch.setattr(baseline, "log_parent", refuse)
    nothing, left = run(pictures, tmp_path / "cut", **RANDOM)
    assert nothing is None
    assert "`fpnas baseline again` finishes the run" in str(left["error"])
    monkeypatch.setattr(baseline, "log_parent", log)
    last = left["at the end"]
    finished, again = run(pictures, tmp_path / "cut", saved=last, **RANDOM)
    assert set(again) == {"at the end"}
    assert finished.read_json("summary.json") == whole.read_json("summary.json")
    expected, found = (a.read_tensors("model.safetensors") for a in (whole, finished))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
