"""Scores trained architectures with shared weights: how well does a supernet rank them?

    python benchmarks/rank_agreement.py --images FOLDER [--seeds 3]

A supernet of ``tiny`` is trained on uniformly drawn architectures, as ``random`` does in
``benchmarks/searches.py``; then every architecture of ``tiny`` in ``results/retrained.csv`` is
scored after recalibration of batch normalization. Appends to ``results/shared_scores.csv``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from searches import COARSE, VARIANTS, build_phase, search_config
from workshop import (
    RESULTS,
    RETRAINED,
    Row,
    append,
    dataset,
    in_processes,
    prepared,
    read,
    uniform_within,
)

from fpnas.architecture import architecture_at
from fpnas.cost import CostModel
from fpnas.search.loop import run_search
from fpnas.search.options import SearchOptions
from fpnas.search.scoring import ArchitectureScorer
from fpnas.space import load_space
from fpnas.stages.searching import StagePictures

SCORES = RESULTS / "shared_scores.csv"


def score(folder: Path, seed: int) -> Row:
    """Trains a supernet and scores what is known; the rows go under ``rows``."""
    file = load_space("tiny")
    space = file.open()
    data = dataset(folder)
    costs = CostModel(space, data.num_classes)
    options = SearchOptions(**{**COARSE, **VARIANTS["random"].coarse})
    config = search_config(file, options, seed)
    search = build_phase("random", "coarse", costs, config, data)
    run_search(search)
    known = {r["sha256"] for r in read(RETRAINED) if r["space"] == "tiny"}
    choices = known_choices(known)
    pictures = StagePictures(config, data, "cpu")
    recalibration = [images for images, _ in pictures.fixed("weights", 16)]
    scorer = ArchitectureScorer(search.evaluator, recalibration, pictures.fixed("alpha", 24))
    names = [architecture_at(space, c.tolist()).sha256 for c in choices]
    rows = [
        {"seed": seed, "sha256": name, "top1": round(top1, 4), "log_likelihood": round(value, 4)}
        for name, (top1, value) in zip(names, scorer.scores(choices).tolist(), strict=True)
    ]
    return {"seed": seed, "rows": rows}


def known_choices(known: set[str]) -> torch.Tensor:
    """The random architectures of ``benchmarks/retrain.py`` that were trained."""
    space = load_space("tiny").open()
    drawn = uniform_within(space, 25, 20, seed=0)
    kept = [c for c in drawn if architecture_at(space, c).sha256 in known]
    assert kept, "run benchmarks/retrain.py --random 20 before"
    return torch.tensor(kept)


def main() -> None:
    """Trains and scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tiny-imagenet-25, extracted")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    folder = prepared(arguments.images)
    done = {int(r["seed"]) for r in read(SCORES)}
    jobs = [(folder, seed) for seed in range(arguments.seeds) if seed not in done]
    for result in in_processes(score, jobs):
        for row in result["rows"]:
            append(SCORES, row)


if __name__ == "__main__":
    main()
