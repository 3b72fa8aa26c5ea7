"""Trains many architectures from scratch with one recipe: what searches are measured against.

    python benchmarks/retrain.py --images FOLDER [--random 24] [--ground-truth]

``--random`` draws architectures of ``tiny`` uniformly within its budget; ``--ground-truth`` trains
every architecture of ``benchmarks/spaces/tiny_64.yaml``, and the best eight within its budget under
two more seeds. Appends to ``results/retrained.csv``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from workshop import (
    RECIPE,
    RETRAINED,
    dataset,
    every_architecture,
    prepared,
    read,
    retrain,
    uniform_within,
)

from fpnas.architecture import architecture_at
from fpnas.space import load_space

GROUND_TRUTH = Path(__file__).parent / "spaces" / "tiny_64.yaml"


def main() -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tiny-imagenet-25, extracted")
    parser.add_argument("--random", type=int, default=0, help="random architectures of tiny")
    parser.add_argument("--ground-truth", action="store_true")
    parser.add_argument("--workers", type=int, help="jobs at a time; as many as cores by default")
    arguments = parser.parse_args()
    folder = prepared(arguments.images)
    num_classes = dataset(folder).num_classes
    if arguments.random:
        space = load_space("tiny").open()
        drawn = uniform_within(space, num_classes, arguments.random, seed=0)
        retrain(
            folder, [(architecture_at(space, choices), 0) for choices in drawn], arguments.workers
        )
    if arguments.ground_truth:
        space = load_space(str(GROUND_TRUTH)).open()
        everything = [architecture_at(space, c) for c in every_architecture(space)]
        retrain(folder, [(architecture, 0) for architecture in everything], arguments.workers)
        rows = [r for r in read(RETRAINED) if r["space"] == space.name and r["seed"] == "0"]
        rows = [
            r
            for r in rows
            if int(r["epochs"]) == RECIPE.epochs and int(r["macs"]) <= space.target_macs
        ]
        best = {r["sha256"] for r in sorted(rows, key=lambda r: -float(r["top1"]))[:8]}
        again = [architecture for architecture in everything if architecture.sha256 in best]
        jobs = [(architecture, seed) for architecture in again for seed in (1, 2)]
        retrain(folder, jobs, arguments.workers)


if __name__ == "__main__":
    main()
