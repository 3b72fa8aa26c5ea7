"""Training speed per MAC: our decoded networks against timm's efficientnet_b0, on the CPU.

    python benchmarks/train_speed.py [--modes eager compiled] [--networks NAME ...] [--repeats 7]

A step is a forward and a backward pass in training mode, float32, channels_last, one thread, in
CPU seconds: what others do on the machine then disturbs least. The two networks of a pair take
turns in one process, and the ratio is the median over the turns of (our pictures/s x our MACs) /
(its pictures/s x its MACs): above 1, our network does more of its arithmetic in the same time.
MACs are counted by running each network (`fpnas.cost.count_macs`).

Of each operating point two architectures are taken, from 500 drawn under a seed: the most probable
one of a seeded distribution that is within the budget, and the largest one within it. Appends to
``results/train_speed.csv`` and writes ``results/train_speed.md``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from workshop import RESULTS, Row, append, read

from fpnas.architecture import Architecture, architecture_at
from fpnas.cost import CostModel, count_macs
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.networks.network import Network
from fpnas.space import load_space

CSV = RESULTS / "train_speed.csv"
PAGE = RESULTS / "train_speed.md"
NUM_CLASSES = 1000
BASELINE, BASELINE_SIZE, BASELINE_BATCH = "efficientnet_b0", 224, 16
POINTS = {"tiny": ("t0", 128), "fbnetv2_f": ("s3", 16), "sa_expanded": ("l0", 16)}
"""Of every space: operating point and batch size."""
WHICH = ("most probable", "largest")
NETWORKS = [f"{space} {which}" for space in POINTS for which in WHICH]


def architecture(space_name: str, which: str) -> Architecture:
    """Draws architectures under seed 0 and takes one that is within the budget."""
    space = load_space(space_name).open(POINTS[space_name][0])
    distribution = FactorizedDistribution(ChoiceLayout.of(space))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in distribution.parameters():
            parameter.normal_(generator=generator)
    choices = distribution.sample(500, generator)
    macs = CostModel(space, NUM_CLASSES).macs(choices)
    score = macs.double() if which == "largest" else distribution.log_prob(choices).double()
    score[macs > space.target_macs] = -torch.inf
    return architecture_at(space, choices[int(score.argmax())].tolist())


def step_of(network: nn.Module, batch_size: int, input_size: int, mode: str) -> Callable[[], float]:
    """Returns a function that makes a step and tells how many CPU seconds it took."""
    network = network.train().to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch_size, 3, input_size, input_size, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch_size) % NUM_CLASSES
    called: Callable[[Tensor], Tensor] = torch.compile(network) if mode == "compiled" else network

    def step() -> float:
        for parameter in network.parameters():
            parameter.grad = None
        began = time.process_time()
        F.cross_entropy(called(images), labels).backward()
        return time.process_time() - began

    return step


def measure(name: str, mode: str, repeats: int) -> Row:
    """Measures one of our networks and the baseline in turns."""
    import timm

    torch.manual_seed(0)
    space_name, which = name.split(maxsplit=1)
    found = architecture(space_name, which)
    model, batch_size = POINTS[space_name]
    pairs: dict[str, Any] = {
        "ours": (Network(found, NUM_CLASSES), batch_size, found.input_size),
        "theirs": (
            timm.create_model(BASELINE, num_classes=NUM_CLASSES),
            BASELINE_BATCH,
            BASELINE_SIZE,
        ),
    }
    macs = {key: count_macs(network, size) for key, (network, _, size) in pairs.items()}
    steps = {key: step_of(*parts, mode) for key, parts in pairs.items()}
    for step in steps.values():
        step(), step()  # compiles, and allocates
    seconds = {key: [] for key in steps}
    for _ in range(repeats):
        for key, step in steps.items():
            seconds[key].append(step())
    work = {key: macs[key] * batch for key, (_, batch, _) in pairs.items()}
    ratios = [
        work["ours"] / ours / (work["theirs"] / theirs)
        for ours, theirs in zip(seconds["ours"], seconds["theirs"], strict=True)
    ]
    rates = {key: work[key] / statistics.median(seconds[key]) / 1e9 for key in steps}
    return {
        "network": name,
        "model": model,
        "mode": mode,
        "input_size": found.input_size,
        "batch_size": batch_size,
        "macs": macs["ours"],
        "seconds": round(statistics.median(seconds["ours"]), 4),
        "gmacs_per_second": round(rates["ours"], 2),
        "baseline": f"timm {timm.__version__} {BASELINE}",
        "baseline_macs": macs["theirs"],
        "baseline_seconds": round(statistics.median(seconds["theirs"]), 4),
        "baseline_gmacs_per_second": round(rates["theirs"], 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_least": round(min(ratios), 3),
        "ratio_most": round(max(ratios), 3),
        "repeats": repeats,
        "load": f"{os.getloadavg()[0]:.1f}",
        "architecture": str(found),
    }


_HEAD = f"""# Training speed

Made by `make bench-train`; figures of [train_speed.csv](train_speed.csv), which also holds the
architectures, the commit and the versions. A step is a forward and
a backward pass, float32, channels_last, one thread, in CPU seconds. GMACs are those of a batch's
forward pass. Each of our networks takes turns with timm's {BASELINE} at {BASELINE_SIZE} px in
batches of {BASELINE_BATCH}; *per MAC* is the median over the turns of ours / theirs, then their
range. The last column is the machine's load, of which the measurement itself is 1.

| network | mode | MACs, M | batch | step, s | GMACs/s | theirs | per MAC | range | load |
|---|---|---|---|---|---|---|---|---|---|
"""


def page() -> str:
    """The latest measurement of each network and mode."""
    latest = {(row["network"], row["mode"]): row for row in read(CSV)}
    lines = []
    for row in latest.values():
        cells = [
            f"{row['network']} of {row['model']}, {row['input_size']} px",
            row["mode"],
            f"{int(row['macs']) / 1e6:.1f}",
            row["batch_size"],
            row["seconds"],
            row["gmacs_per_second"],
            row["baseline_gmacs_per_second"],
            row["ratio"],
            f"{row['ratio_least']} to {row['ratio_most']}",
            row["load"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return _HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--modes", nargs="*", default=["eager", "compiled"])
    parser.add_argument("--networks", nargs="*", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for mode in arguments.modes:
        for name in arguments.networks:
            row = measure(name, mode, arguments.repeats)
            print(row, flush=True)
            append(CSV, row)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
