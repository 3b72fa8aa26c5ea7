"""Searched architectures beside published networks of at least as many MACs, by one recipe.

    python benchmarks/baselines.py --images FOLDER [--seeds 3] [--names NAME ...]

What FP-NAS found under search seed s (``results/searches.csv``) is trained under seed s; each
published network under the same seeds. Appends to ``results/baselines.csv``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workshop import RESULTS, Row, append, in_processes, prepared, read, searched, train

from fpnas.networks.named import NamedArchitecture

BASELINES = RESULTS / "baselines.csv"
INPUT_SIZE = 32
NAMES = (
    "mobilenet_v3_small@0.5/8",
    "mobilenet_v2",
    "mobilenet_v2@0.35/16",
    "mobilenet_v3_large",
    "mnasnet",
    "efficientnet_b0",
)
"""The cheapest has more MACs than the dearest that the searches found, 4.3 M."""
SEARCHED = "fpnas"


def compare(folder: Path, name: str, seed: int) -> Row:
    """Trains a baseline, or what the search of this seed found."""
    if name == SEARCHED:
        architecture = searched("fpnas", seed=seed)
    else:
        architecture = NamedArchitecture.parse(name, INPUT_SIZE)
    row = train(folder, architecture, seed)
    return {"name": name, **{key: value for key, value in row.items() if key != "space"}}


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tiny-imagenet-25, extracted")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--names", nargs="+", default=[SEARCHED, *NAMES])
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    folder = prepared(arguments.images)
    known = {(row["name"], int(row["seed"])) for row in read(BASELINES)}
    jobs = [
        (folder, name, seed)
        for seed in range(arguments.seeds)
        for name in arguments.names
        if (name, seed) not in known
    ]
    for row in in_processes(compare, jobs, arguments.workers):
        append(BASELINES, row)


if __name__ == "__main__":
    main()
