"""A search stage whose processes share the sampled architectures, over real S3."""

from __future__ import annotations

import signal
import time

import psutil
import pytest

from fpnas.storage import connect

from .conftest import search_config

AGAIN = {"architecture_batch_size": 16}


def test_two_processes_find_what_one_finds(bench, dataset):
    store = connect(bench.environ)
    found = []
    # The last one with ranks that torchrun starts; what it says twice makes it another artifact.
    for options, torchrun in (({}, 0), ({"num_processes": 2}, 0), (AGAIN, 2)):
        uri = bench.run("coarse", search_config(**options), torchrun, dataset=dataset)
        artifact = store.open(uri)
        tensors = artifact.read_tensors("distribution.safetensors")
        found.append((artifact.read_json("search.json"), tensors["logits"]))
    (alone, logits), *others = found
    assert logits.abs().max() > 0.05
    for shared, found_logits in others:
        for name in ("num_steps", "num_samples", "num_backwards"):
            assert shared[name] == alone[name] > 0
        # With the memory of two processes, more graphs are kept and fewer run forward again.
        assert 0 < shared["num_forwards"] <= alone["num_forwards"]
        assert (logits - found_logits).abs().max() < 0.02  # single precision


def test_a_companion_that_dies_stops_the_stage_which_can_be_resumed(bench, dataset):
    # Unlike any other test's: a stopped stage leaves its checkpoints, which tests of one process
    # share, and this one waits for files that were not there.
    long = search_config(num_processes=2, search={"num_steps": 100_001})
    checkpoints = bench.folder / "s3" / "fpnas" / "checkpoints"
    before = set(checkpoints.rglob("b.safetensors"))
    process = bench.start("coarse", long, dataset=dataset)
    deadline = time.monotonic() + 900  # far beyond what a busy machine takes
    # The two sides are written in turn: the first one was whole before the second one began.
    while not set(checkpoints.rglob("b.safetensors")) - before:
        assert time.monotonic() < deadline, "no checkpoint was written"
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    (companion,) = [
        child
        for child in psutil.Process(process.pid).children()
        if "fpnas.stages.ranks" in child.cmdline()
    ]
    companion.send_signal(signal.SIGKILL)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 75
    assert "another rank is gone" in errors
    assert set(checkpoints.rglob("b.safetensors")) > before
    again = bench.start("coarse", long, dataset=dataset)
    try:
        for line in again.stderr:
            if "resuming from" in line:
                break
        else:
            pytest.fail("it did not resume")
    finally:
        again.kill()
        again.communicate()
