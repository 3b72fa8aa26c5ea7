"""Several ranks find what one finds; ranks that disagree or are gone are noticed."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from fpnas.parallel import Ranks
from fpnas.search.loop import run_search

from . import parallel_job


def torchrun(num_ranks, mode, folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={num_ranks}", "--max-restarts=0"]
    return subprocess.run(
        [*command, "-m", "tests.search.parallel_job", mode, str(folder)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def two_ranks(mode, folder):
    """The exit statuses of two ranks that nobody watches over: torchrun kills those that are left
    when one has ended, sometimes before they notice it themselves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.search.parallel_job", mode, str(folder)],
            env={**os.environ, **group, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]
    try:
        return [process.wait(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def alone():
    found, evaluator = parallel_job.search(Ranks())
    run_search(found)
    return found, evaluator


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_ranks_find_what_one_process_finds(alone, num_ranks, tmp_path):
    done = torchrun(num_ranks, "whole", tmp_path)
    assert done.returncode == 0, done.stderr
    found, evaluator = alone
    for rank in range(num_ranks):
        saved = torch.load(tmp_path / f"rank{rank}.pt", weights_only=False)
        # Equal but for the order of sums: 1e-9 in double precision.
        torch.testing.assert_close(
            saved["logits"], found.distribution.logits.detach(), rtol=1e-5, atol=1e-6
        )
        table = torch.tensor(saved["history"])
        torch.testing.assert_close(
            table, torch.tensor(found.history), rtol=1e-5, atol=1e-6, equal_nan=True
        )
        assert saved["bill"].num_backwards == evaluator.bill.num_backwards
        # With the memory of several processes, more graphs are kept and fewer run forward again.
        assert saved["bill"].num_forwards <= evaluator.bill.num_forwards
        for name, weight in evaluator.supernet.state_dict().items():
            torch.testing.assert_close(saved["weights"][name], weight, rtol=1e-9, atol=1e-12)


def test_ranks_that_draw_differently_stop(tmp_path):
    assert two_ranks("disagree", tmp_path) == [75, 75]
    messages = [(tmp_path / f"error{rank}").read_text() for rank in range(2)]
    assert any("does not hold the same architectures" in message for message in messages)


def test_the_others_stop_when_a_rank_dies(tmp_path):
    assert two_ranks("die", tmp_path) == [75, 9]
    assert "another rank is gone" in (tmp_path / "error0").read_text()


def test_torchrun_fails_when_a_rank_dies(tmp_path):
    assert torchrun(2, "die", tmp_path).returncode != 0


def test_the_dearest_go_to_the_idlest():
    costs = [5, 9, 1, 4, 4]
    shares = [Ranks(rank, 2).share(costs) for rank in range(2)]
    assert sorted(shares[0] + shares[1]) == [0, 1, 2, 3, 4]
    assert [sum(costs[item] for item in share) for share in shares] == [13, 10]
    assert Ranks().share(costs) == [0, 1, 2, 3, 4]
    assert Ranks(2, 3).share([7]) == []


def test_one_process_changes_nothing():
    parameter = nn.Parameter(torch.ones(2))
    Ranks().sum_gradients([parameter])
    assert parameter.grad is None
    assert Ranks().sum(torch.ones(3)).tolist() == [1, 1, 1]
    Ranks().check_equal(torch.zeros(2), "zeros")
