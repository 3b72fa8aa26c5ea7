"""One rank of a search, run by torchrun in ``test_parallel.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.networks.supernet import Supernet
from fpnas.parallel import Ranks
from fpnas.search.evaluator import SupernetEvaluator
from fpnas.search.loop import run_search
from fpnas.search.options import SearchOptions
from fpnas.search.probabilistic import ProbabilisticSearch
from fpnas.space import load_space

from .memory import MemoryBatches

SPACE = load_space("tiny").open(input_size=16)


def search(ranks, seed=0, num_steps=6):
    """A short search in double precision; returns it when it is done."""
    torch.manual_seed(0)
    evaluator = SupernetEvaluator(
        Supernet(SPACE, 3).double(),
        *(MemoryBatches(n, batch=8, size=16, dtype=torch.float64) for n in (1, 2)),
        temperature="ess",
        ess_fraction=0.5,
        momentum=0.9,
        weight_decay=1e-4,
        max_grad_norm=5.0,
        ranks=ranks,
    )
    # K falls from 7 to 5: uneven on two and on three ranks.
    options = SearchOptions(num_steps=num_steps, architecture_learning_rate=0.4, warmup_steps=1)
    distribution = FactorizedDistribution(ChoiceLayout.of(SPACE))
    found = ProbabilisticSearch(distribution, evaluator, CostModel(SPACE, 3), options, seed)
    return found, evaluator


def main():
    mode, output = sys.argv[1], Path(sys.argv[2])
    ranks = Ranks.from_environment()
    # Another seed on one rank draws other architectures, which must be noticed.
    seed = ranks.rank if mode == "disagree" else 0
    found, evaluator = search(ranks, seed, num_steps=10**6 if mode == "die" else 6)

    def on_step(record):
        if mode == "die" and ranks.rank == 1 and record["step"] == 2:
            os._exit(9)

    try:
        run_search(found, on_step=on_step)
    except Exception as error:
        (output / f"error{ranks.rank}").write_text(f"{type(error).__name__}: {error}")
        sys.exit(getattr(error, "exit_status", 1))
    ranks.leave()
    torch.save(
        {
            "logits": found.distribution.logits.detach(),
            "history": found.history,
            "bill": evaluator.bill,
            "weights": dict(evaluator.supernet.state_dict()),
        },
        output / f"rank{ranks.rank}.pt",
    )


if __name__ == "__main__":
    main()
