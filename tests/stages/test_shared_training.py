"""Distillation and baselines whose processes share the work, over real S3."""

from __future__ import annotations

import json

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from fpnas.storage import connect

from .conftest import search_config

RECIPE = {"epochs": 2, "batch_size": 16, "learning_rate": 0.02, "ema_decay": 0.9}


@pytest.fixture(scope="module")
def teacher(bench):
    """A network that nobody has trained: a linear classifier on its features knows the digits."""
    torch.manual_seed(0)
    network = torchvision.models.mobilenet_v3_small(num_classes=2)
    path = bench.folder / "teacher.safetensors"
    save_file(network.state_dict(), path)
    classes = path.with_suffix(".json")
    classes.write_text('["red", "blue"]')
    return {
        "teacher": f"local:{path}",
        "teacher_architecture": "torchvision:mobilenet_v3_small",
        "teacher_classes": str(classes),
        "teacher_input_size": 32,
        "teacher_head": "fitted",
    }


def made(bench, name, stage, num_processes, config, **inputs):
    """The artifact of a stage, in a storage of its own so that nothing is found there."""
    environ = {"FPNAS_STORAGE": f"s3://fpnas/{name}", "FPNAS_HOME": str(bench.folder / name)}
    runtime = {"checkpoint_seconds": 1000, "num_processes": num_processes}
    text = {"recipe": RECIPE, **config, "runtime": runtime}
    uri = bench.run(stage, text, environ=environ, **inputs)
    return connect({**bench.environ, **environ}).open(uri)


def counted(bench, dataset):
    return connect(bench.environ).open(dataset).read_json("dataset.json")["counts"]["val"]


def test_processes_that_share_a_teacher_hear_what_one_hears(bench, dataset, architecture, teacher):
    inputs = {"dataset": dataset, "architecture": architecture}
    config = {"space": search_config()["space"], **teacher}
    heard = []
    for name, num_processes in (("alone", 1), ("both", 2)):
        artifact = made(bench, name, "distill", num_processes, config, **inputs)
        model = artifact.read_json("model.json")
        assert model["evaluation"]["num_images"] == counted(bench, dataset)
        assert model["teacher"]["top1"] > 0.3
        (logits,) = (bench.folder / "s3" / "fpnas" / name).rglob("logits.safetensors")
        heard.append((load_file(logits)["logits"].float(), model["teacher"]["top1"]))
    (alone, top1), (both, shared_top1) = heard
    assert alone.abs().amax(dim=1).min() > 0  # no picture was left out
    torch.testing.assert_close(both, alone, atol=0.05, rtol=0.02)
    assert shared_top1 == pytest.approx(top1, abs=0.02)


def test_processes_share_a_wider_teacher_and_the_student(bench, dataset, architecture):
    config = {"space": search_config()["space"], "teacher": "wider", "teacher_epochs": 2}
    inputs = {"dataset": dataset, "architecture": architecture}
    artifact = made(bench, "wider", "distill", 2, config, **inputs)
    model = artifact.read_json("model.json")
    assert model["teacher"]["name"] == "wider"
    assert model["evaluation"]["num_images"] == counted(bench, dataset)


def test_processes_share_the_candidates_of_a_baseline(bench, dataset):
    own = {"name": "random", "input_size": 16, "num_candidates": 2, "candidate_epochs": 1}
    config = {**own, "space": search_config()["space"]}
    artifact = made(bench, "baseline", "baseline", 2, config, dataset=dataset)
    assert artifact.read_json("model.json")["evaluation"]["num_images"] == counted(bench, dataset)
    summary = json.loads(artifact.fetch("summary.json").read_text())
    assert len(summary["baseline"]["candidates"]) == 2
