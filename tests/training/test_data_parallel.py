"""Several processes train what one trains."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from fpnas.parallel import Ranks

from . import parallel_job


def launch(num_ranks, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.parallel_job", str(folder)],
            env={**os.environ, **group, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(num_ranks)
    ]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0] * num_ranks
    finally:
        for process in processes:
            process.kill()
    return [
        torch.load(folder / f"{num_ranks}-{rank}.pt", weights_only=True)
        for rank in range(num_ranks)
    ]


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two ranks find, and then three, who go on where two have stopped."""
    folder = tmp_path_factory.mktemp("ranks")
    found = {number: launch(number, folder) for number in (2, 3)}
    return found, torch.load(folder / "state.pt", weights_only=True)


@pytest.fixture(scope="module")
def alone():
    return parallel_job.result(parallel_job.start(Ranks()))


def assert_same(found, expected):
    torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-9, atol=1e-12)
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(torch.tensor(found["history"]), torch.tensor(expected["history"]))
    for ours, theirs in zip(found["evaluation"], expected["evaluation"], strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), **close)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_train_what_one_process_trains(alone, together, num_ranks):
    """Seven pictures are shared unevenly, and each counts as much."""
    assert alone["evaluation"][2] == parallel_job.NUM_VAL
    for found in together[0][num_ranks]:
        assert_same(found["plain"], alone)


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_pass_over_a_step_that_one_of_them_found_spoilt(together, num_ranks):
    expected = parallel_job.result(parallel_job.start(Ranks(), spoilt_at=2))
    assert expected["skipped"] == 1
    for found in together[0][num_ranks]:
        assert found["spoilt"]["skipped"] == 1
        assert_same(found["spoilt"], expected)


def test_a_run_goes_on_with_more_processes_or_with_one(alone, together):
    found, state = together
    for rank in range(3):
        assert_same(found[3][rank]["resumed"], alone)
    assert_same(parallel_job.resumed(Ranks(), state), alone)


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("kind", ["norms", "dropped"])
def test_all_ranks_hold_the_same_network_and_statistics(together, num_ranks, kind):
    first, *others = (found[kind] for found in together[0][num_ranks])
    for other in others:
        for name, value in first["weights"].items():
            assert torch.equal(other["weights"][name], value), name
        assert other["history"] == first["history"]


def test_statistics_are_averaged_over_the_ranks(alone, together):
    """Means of equal shares agree with those of one process; so do the networks, nearly."""
    expected = parallel_job.result(parallel_job.start(Ranks(), norms=True))
    for num_ranks in (2, 3):
        found = together[0][num_ranks][0]["norms"]
        # Each process normalizes by two to four pictures instead of seven.
        mean, reference = (run["weights"]["stem.1.running_mean"] for run in (found, expected))
        torch.testing.assert_close(mean, reference, rtol=0.3, atol=0.05)
        losses = [run["history"][-1][2] for run in (found, expected)]
        assert losses[0] == pytest.approx(losses[1], rel=0.3)
        assert losses[0] != losses[1]


def test_ranks_that_start_from_other_weights_stop(together):
    for num_ranks in (2, 3):
        for rank, found in enumerate(together[0][num_ranks]):
            assert f"rank {rank} of {num_ranks} does not hold the same" in found["disagreement"]
