"""Peak memory of a search against training a network, and the speed of two ranks against one.

    python benchmarks/resources.py [--repeats 3]

Memory: every job is a process of its own, and its peak is counted from what it held before it built
anything. The same batch everywhere. Ranks: steps on the same draws with one thread a process, one
and two processes in turn. Pictures are random: neither figure depends on them. Writes
``results/memory.csv`` and ``results/ranks.csv``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# Sets one thread a process, so it comes before torch.
from workshop import RESULTS, Row, append

import psutil  # isort: skip
import torch  # isort: skip
from gpu import NAIVE, Halves, masked_step, training_step  # isort: skip

from fpnas.architecture import largest_architecture
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.networks.masked_supernet import MaskedSupernet
from fpnas.networks.network import Network
from fpnas.networks.supernet import Supernet
from fpnas.parallel import Ranks
from fpnas.search.dnas import MaskedEvaluator
from fpnas.search.engine import Engine
from fpnas.search.evaluator import SupernetEvaluator
from fpnas.search.options import WeightOptions
from fpnas.space import load_space
from fpnas.stages.searching import peak_memory_bytes

NUM_CLASSES = 25
MEMORY_JOBS = ("largest architecture alone", "fpnas", "fpnas, naive", "dnas")
NUM_STEPS = 8


def supernet_evaluator(
    halves: Halves, space_name: str, engine: Engine, ranks: Ranks
) -> SupernetEvaluator:
    """An evaluator with fresh weights."""
    torch.manual_seed(0)
    return SupernetEvaluator(
        Supernet(load_space(space_name).open(), NUM_CLASSES),
        halves.batches("weights"),
        halves.batches("alpha"),
        temperature="ess",
        ess_fraction=0.5,
        **vars(WeightOptions()),
        engine=engine,
        ranks=ranks,
    )


def halves_of(space_name: str, batch_size: int) -> Halves:
    """Random pictures."""
    size = load_space(space_name).open().input_size
    images = torch.randint(0, 256, (8 * batch_size, 3, size, size), dtype=torch.uint8)
    return Halves(images, torch.arange(len(images)) % NUM_CLASSES, batch_size, "cpu")


def memory(job: str, space_name: str, batch_size: int) -> Row:
    """Three steps of a job; its peak memory."""
    space = load_space(space_name).open()
    halves = halves_of(space_name, batch_size)
    before = psutil.Process().memory_info().rss
    distribution = FactorizedDistribution(ChoiceLayout.of(space))
    num_samples = round(distribution.entropy().item() / 4)
    if job == "dnas":
        masked = MaskedEvaluator(
            MaskedSupernet(space, NUM_CLASSES),
            halves.batches("weights"),
            halves.batches("alpha"),
            **vars(WeightOptions()),
        )
        gates = distribution.log_probs().detach().exp()
        step = masked_step(masked, gates, "fp32", "cpu")
    elif job.startswith("fpnas"):
        engine = NAIVE if "naive" in job else Engine()
        evaluator = supernet_evaluator(halves, space_name, engine, Ranks())
        generator = torch.Generator().manual_seed(0)

        def step() -> None:
            choices = distribution.sample(num_samples, generator)
            evaluator.train_step(choices, 0.01)
            evaluator.log_likelihood(choices)
    else:
        largest = largest_architecture(space)
        network = Network(largest, NUM_CLASSES).to(memory_format=torch.channels_last)
        batch = next(iter(halves.batches("weights")))
        step = training_step(network, batch, "fp32")
    for _ in range(3):
        step()
    return {
        "space": space_name,
        "batch_size": batch_size,
        "job": job,
        "peak_mib": round((peak_memory_bytes() - before) / 2**20, 1),
    }


def rank_steps(space_name: str, batch_size: int) -> float:
    """Seconds of steps with as many processes as torchrun has started."""
    torch.set_num_threads(1)
    ranks = Ranks.from_environment()
    halves = halves_of(space_name, batch_size)
    evaluator = supernet_evaluator(halves, space_name, Engine(), ranks)
    distribution = FactorizedDistribution(ChoiceLayout.of(load_space(space_name).open()))
    generator = torch.Generator().manual_seed(0)
    seconds = []
    for _ in range(NUM_STEPS):
        choices = distribution.sample(round(distribution.entropy().item() / 4), generator)
        started = time.perf_counter()
        evaluator.train_step(choices, 0.01)
        evaluator.log_likelihood(choices)
        seconds.append(time.perf_counter() - started)
    ranks.leave()
    return sum(seconds[1:])


def child(*words: str, num_ranks: int = 0) -> str:
    """Runs a job of this file in a process of its own, or in ranks, and returns what it printed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    command = [sys.executable, *(launcher if num_ranks else []), str(Path(__file__)), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout.strip().splitlines()[-1]


def measure_ranks(words: tuple[str, ...], space_name: str, batch_size: int, repeats: int) -> None:
    """One rank, two ranks, and two searches that share nothing: what the machine can do at most."""

    def seconds_of(num_ranks: int) -> float:
        return float(child(*words, "ranks", num_ranks=num_ranks))

    def side_by_side() -> float:
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(seconds_of, (1, 1))) / 2

    jobs = {
        "one rank": (lambda: seconds_of(1), 1),
        "two ranks": (lambda: seconds_of(2), 1),
        "two searches at once, one rank each": (side_by_side, 2),
    }
    found: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, (job, _) in jobs.items():
            found[name].append(job())
    for name, (_, work) in jobs.items():
        middle = statistics.median(found[name])
        row = {
            "space": space_name,
            "batch_size": batch_size,
            "what": name,
            "seconds": round(middle, 2),
            "speedup": round(work * statistics.median(found["one rank"]) / middle, 2),
            "repeats": repeats,
        }
        append(RESULTS / "ranks.csv", row)
        print(row, flush=True)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--spaces", nargs="*", default=["tiny"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        space_name, batch_size = arguments.spaces[0], arguments.batch_size
        if arguments.job != "ranks":
            print(json.dumps(memory(arguments.job, space_name, batch_size)))
        else:
            seconds = rank_steps(space_name, batch_size)
            if os.environ["RANK"] == "0":
                print(json.dumps(seconds))
        return
    for path in (RESULTS / "memory.csv", RESULTS / "ranks.csv"):
        path.unlink(missing_ok=True)
    for space_name in arguments.spaces:
        words = ("--spaces", space_name, "--batch-size", str(arguments.batch_size), "--job")
        alone = 0.0
        for job in MEMORY_JOBS:
            rows = [json.loads(child(*words, job)) for _ in range(arguments.repeats)]
            peak = statistics.median(row["peak_mib"] for row in rows)
            alone = alone or peak
            row = {**rows[0], "peak_mib": peak, "ratio_to_largest": round(peak / alone, 3)}
            append(RESULTS / "memory.csv", row)
            print(row, flush=True)
        measure_ranks(words, space_name, arguments.batch_size, arguments.repeats)


if __name__ == "__main__":
    main()
