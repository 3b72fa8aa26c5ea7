"""The loader's share of a training step on the CPU.

    python benchmarks/loader_share.py [--scratch FOLDER] [--steps 30] [--repeats 5]

Networks are trained (forward, backward, SGD) on all cores, in turns with batches from the loader,
which decodes and augments on the same cores meanwhile, and with one batch that is held in memory.
Two shares of the step: *waiting* is the time in which the training thread asks for a batch, until
it has it on its device; *slowdown* is what the whole step takes longer than on the held batch,
which also counts the cores that decoding takes away from the network. Once the loader keeps no
pictures, so that all are decoded, as in a first epoch or where they do not fit its memory; and once
it has kept them all, as in every later epoch where they do. Uses the pictures that
``benchmarks/loader.py`` made; appends to ``results/loader_share.csv``.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import train_speed
from loader import CASES
from loader_pages import SHARES, write_page
from torch import Tensor
from torch.nn import functional as F
from workshop import Row, append

from fpnas.data.dataset import Dataset
from fpnas.data.loader import DEFAULT_MEMORY_BYTES, ImageLoader
from fpnas.networks.network import Network
from fpnas.stages.batches import LabelledBatches

JOBS = {"tiny 64 to 32": "tiny largest", "photos 224 to 128": "fbnetv2_f largest"}
MEMORY_BYTES = {"decoded": 0, "kept": DEFAULT_MEMORY_BYTES}


def measure(case_name: str, network_name: str, pictures: str, arguments: argparse.Namespace) -> Row:
    """Times steps on the loader's batches and on one that is held, in turns."""
    torch.manual_seed(0)
    case = CASES[case_name]
    folder = arguments.scratch / f"{case.pictures}-prepared"
    dataset = Dataset(lambda name: folder / name)
    found = train_speed.architecture(*network_name.split(maxsplit=1))
    network = Network(found, dataset.num_classes).to(memory_format=torch.channels_last)
    macs = train_speed.count_macs(network, case.input_size)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    loader = ImageLoader(
        dataset,
        "train",
        batch_size=case.batch_size,
        input_size=case.input_size,
        training=True,
        seed=0,
        augmentation="imagenet",
        memory_bytes=MEMORY_BYTES[pictures],
    )
    batches = iter(LabelledBatches(loader))
    held = next(batches)
    while MEMORY_BYTES[pictures] and loader.epoch == 0:
        next(batches)

    def steps(source: Iterator[tuple[Tensor, Tensor]]) -> tuple[float, float]:
        """Returns the seconds of waiting and of everything."""
        waiting, began = 0.0, time.perf_counter()
        for _ in range(arguments.steps):
            asked = time.perf_counter()
            images, labels = next(source)
            waiting += time.perf_counter() - asked
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        return waiting, time.perf_counter() - began

    steps(batches)
    waits, slowdowns, seconds = [], [], []
    for _ in range(arguments.repeats):
        _, alone = steps(itertools.repeat(held))
        waiting, total = steps(batches)
        waits.append(waiting / total)
        slowdowns.append(1 - alone / total)
        seconds.append(total / arguments.steps)
    return {
        "case": case_name,
        "pictures": pictures,
        "network": network_name,
        "macs": macs,
        "batch_size": case.batch_size,
        "threads": torch.get_num_threads(),
        "step_seconds": round(statistics.median(seconds), 4),
        "waiting": round(statistics.median(waits), 4),
        "waiting_most": round(max(waits), 4),
        "slowdown": round(statistics.median(slowdowns), 4),
        "repeats": arguments.repeats,
        "load": f"{os.getloadavg()[0]:.1f}",
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scratch", type=Path, default=Path("build/bench-loader").absolute())
    parser.add_argument("--cases", nargs="*", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    for case, pictures in itertools.product(arguments.cases, MEMORY_BYTES):
        row = measure(case, JOBS[case], pictures, arguments)
        print(row, flush=True)
        append(SHARES, row)
    write_page()


if __name__ == "__main__":
    main()
