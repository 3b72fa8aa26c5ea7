"""A training run that is killed anywhere ends with the bits of one that was not."""

from __future__ import annotations

import multiprocessing
import random
import socket
import time

import pandas as pd
import pytest
import torch

from . import folder_stage

NUM_KILLS = 10
RECIPE = {
    **folder_stage.RECIPE,
    "epochs": 12,
    "ema_decay": 0.9,
    "accumulation": 2,
    # Everything that draws random numbers.
    "mixup": 0.2,
    "cutmix": 0.2,
    "dropout": 0.1,
    "stochastic_depth": 0.2,
    "rand_augment_ops": 1,
    "random_erasing": 0.2,
}


@pytest.fixture(scope="module")
def processes():
    """Processes that start with everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([folder_stage.__name__, "torchvision.transforms.v2"])
    return context


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return folder_stage.make_pictures(tmp_path_factory.mktemp("pictures"))


def start(processes, pictures, folder, **group):
    folder.mkdir(exist_ok=True)
    target = folder_stage.train_to_the_end
    process = processes.Process(target=target, args=(pictures, folder, RECIPE, group))
    process.start()
    return process


def finish(processes, pictures, folder):
    """Trains to the end and returns the weights."""
    process = start(processes, pictures, folder)
    process.join(120)
    assert (folder / "done").exists()
    assert process.exitcode == 0
    return folder_stage.Folder(folder / "model").read_tensors("model.safetensors")


def kill(processes, pictures, folder, share, wait_seconds):
    """Kills it some time after a share of its steps; returns the steps done and in all."""
    process = start(processes, pictures, folder)
    step = folder / "step"
    deadline = time.monotonic() + 120
    try:
        while True:
            done, total = map(int, (step.read_text() if step.exists() else "").split() or (0, 1))
            if done >= share * total:
                time.sleep(wait_seconds)
                break
            assert process.is_alive(), "it ended by itself"
            assert time.monotonic() < deadline, "it made no progress"
            time.sleep(0.001)
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -9
    return done, total


def test_killed_at_ten_points_it_ends_with_the_same_bits(processes, pictures, tmp_path):
    expected = finish(processes, pictures, tmp_path / "whole")
    assert (tmp_path / "whole" / "resumed").read_text() == "False"
    draw, outcomes, reached = random.Random(7), [], set()
    for number in range(NUM_KILLS):
        folder = tmp_path / f"kill{number}"
        # Some milliseconds later it may be in the middle of a step, or of writing a checkpoint.
        point = (draw.uniform(0.02, 0.9), draw.uniform(0, 0.03))
        done, total = kill(processes, pictures, folder, *point)
        reached.add(done)
        assert 0 < done < total
        found = finish(processes, pictures, folder)
        assert (folder / "resumed").read_text() == "True"
        outcomes.append(
            found.keys() == expected.keys()
            and all(torch.equal(found[name], expected[name]) for name in expected)
        )
    assert outcomes == [True] * NUM_KILLS
    assert len(reached) > NUM_KILLS // 2


def test_killed_on_one_process_it_goes_on_on_two(processes, pictures, tmp_path):
    folder = tmp_path / "more"
    _, total = kill(processes, pictures, folder, 0.3, 0.01)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [start(processes, pictures, folder, RANK=str(rank), **group) for rank in range(2)]
    for process in ranks:
        process.join(120)
    assert [process.exitcode for process in ranks] == [0, 0]
    assert (folder / "resumed").read_text() == "True"
    assert (folder / "step").read_text() == f"{total} {total}"
    model = folder_stage.Folder(folder / "model")
    alone, _ = folder_stage.run(pictures, tmp_path / "alone", RECIPE)
    # All validation pictures were seen, and what was learnt is about the same.
    found, expected = (a.read_json("model.json")["evaluation"] for a in (model, alone))
    assert found["num_images"] == expected["num_images"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=0.3)
    history = pd.read_parquet(model.path("history.parquet"))
    assert history["epoch"].tolist() == list(range(1, RECIPE["epochs"] + 1))
