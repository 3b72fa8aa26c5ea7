"""Scores trained architectures with shared weights: how well does a supernet rank them?

    python benchmarks/rank_agreement.py --images FOLDER [--seeds 3] [--apart kernel ...]
        [--num-steps 6000]

A supernet of ``tiny`` is trained on uniformly drawn architectures, as ``random`` does in
``benchmarks/searches.py``. After 600 steps (the warm-up of a search) and at the end, when the
learning rate has fallen to zero, the random architectures of ``benchmarks/retrain.py`` are scored
in two ways: with the statistics of the batch, as a search does, and as stand-alone networks whose
batch normalization was recalibrated. ``--apart`` gives the blocks weights of their own for every
value of a variable, instead of sharing them. Appends to ``results/shared_scores.csv``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from searches import COARSE, VARIANTS, search_config
from torch import Tensor, nn
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

from fpnas.architecture import BlockSpec, architecture_at
from fpnas.cost import CostModel
from fpnas.networks.supernet import SharedBlock, Supernet
from fpnas.search.evaluator import SupernetEvaluator
from fpnas.search.loop import run_search
from fpnas.search.options import SearchOptions, WeightOptions
from fpnas.search.population import UniformTraining
from fpnas.search.scoring import ArchitectureScorer
from fpnas.space import SearchSpace, load_space
from fpnas.stages.searching import StagePictures

SCORES = RESULTS / "shared_scores.csv"
WARMUP_STEPS, NUM_STEPS = 600, 1500
RECALIBRATION_BATCHES, SCORING_BATCHES = 16, 12
NUM_ARCHITECTURES = 20
NUM_CLASSES = 25  # of tiny-imagenet-25


class ApartBlock(SharedBlock):
    """A block of its own for every value of a variable; bypasses share the first."""

    def __init__(self, copies: dict[Any, SharedBlock], variable: str) -> None:
        nn.Module.__init__(self)
        self.variable, self._numbers = variable, {v: n for n, v in enumerate(copies)}
        self.copies = nn.ModuleList(copies.values())

    def of(self, spec: BlockSpec) -> SharedBlock:
        """The copy that a block uses."""
        number = self._numbers[getattr(spec, self.variable)] if spec.kernel else 0
        found = self.copies[number]
        assert isinstance(found, SharedBlock)
        return found

    def forward(self, images: Tensor, spec: BlockSpec) -> Tensor:
        """Runs the block as ``spec`` asks."""
        result: Tensor = self.of(spec)(images, spec)
        return result

    def copy_into(self, target: nn.Module, spec: BlockSpec) -> None:
        """Copies the slice that a stand-alone block needs."""
        self.of(spec).copy_into(target, spec)


def set_apart(supernet: Supernet, variable: str) -> None:
    """Gives every block weights of its own for every value of a variable."""
    space = supernet.space
    first = 0
    for group in space.groups:
        values = next(c.values for c in group.choices if c.name == variable)
        values = tuple(v for v in values if variable != "kernel" or v)
        copies = {value: Supernet(space, 2).blocks for value in values}
        for index in range(first, first + group.repeat):
            blocks: dict[Any, Any] = {value: blocks[index] for value, blocks in copies.items()}
            supernet.blocks[index] = ApartBlock(blocks, variable)
        first += group.repeat


def score(folder: Path, apart: str, seed: int, num_steps: int) -> Row:
    """Trains a supernet and scores what is known; the rows go under ``rows``."""
    file = load_space("tiny")
    space = file.open()
    data = dataset(folder)
    costs = CostModel(space, data.num_classes)
    options = SearchOptions(**{**COARSE, **VARIANTS["random"].coarse, "num_steps": num_steps})
    # A longer schedule is at another learning rate then, and no search warms up under it.
    scored = {WARMUP_STEPS, num_steps} if num_steps == NUM_STEPS else {num_steps}
    pictures = StagePictures(search_config(file, options, seed), data, "cpu")
    torch.manual_seed(seed)
    supernet = Supernet(space, data.num_classes)
    if apart:
        set_apart(supernet, apart)
    evaluator = SupernetEvaluator(
        supernet,
        pictures.batches("weights"),
        pictures.batches("alpha"),
        temperature=options.temperature,
        ess_fraction=options.ess_fraction,
        **vars(WeightOptions()),
    )
    search = UniformTraining(evaluator, costs, options, 2 * seed)
    choices = known_choices(space)
    recalibration = [images for images, _ in pictures.fixed("weights", RECALIBRATION_BATCHES)]
    scoring = pictures.fixed("alpha", SCORING_BATCHES)
    rows: list[Row] = []

    def on_step(record: dict[str, float]) -> None:
        step = int(record["step"])
        if step in scored:
            scorer = ArchitectureScorer(evaluator, recalibration, scoring)
            found = {"recalibrated": scorer.scores(choices), "batch": on_batches()}
            for statistics, scores in found.items():
                for choice, (top1, value) in zip(choices, scores.tolist(), strict=True):
                    rows.append(
                        {
                            "apart": apart,
                            "seed": seed,
                            "step": step,
                            "statistics": statistics,
                            "sha256": architecture_at(space, choice.tolist()).sha256,
                            "top1": round(top1, 4),
                            "log_likelihood": round(value, 4),
                        }
                    )

    def on_batches() -> Tensor:
        """As a search scores: with the statistics of each batch; it knows no top-1."""
        values = torch.stack([evaluator.score(choices, *batch) for batch in scoring])
        mean = values.sum(dim=0) / sum(len(labels) for _, labels in scoring)
        return torch.stack([torch.full_like(mean, torch.nan), mean], dim=1)

    run_search(search, on_step=on_step)
    return {"apart": apart, "seed": seed, "rows": rows}


def known_choices(space: SearchSpace) -> Tensor:
    """The random architectures of ``benchmarks/retrain.py`` that were trained."""
    known = {r["sha256"] for r in read(RETRAINED) if r["space"] == space.name}
    drawn = uniform_within(space, NUM_CLASSES, NUM_ARCHITECTURES, seed=0)
    kept = [c for c in drawn if architecture_at(space, c).sha256 in known]
    assert kept, f"run benchmarks/retrain.py --random {NUM_ARCHITECTURES} before"
    return torch.tensor(kept)


def main() -> None:
    """Trains and scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tiny-imagenet-25, extracted")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--apart",
        nargs="*",
        default=["", "kernel", "splits", "activation"],
        help="variables whose values share no weights, one supernet each",
    )
    parser.add_argument("--num-steps", type=int, default=NUM_STEPS)
    arguments = parser.parse_args()
    num_steps = arguments.num_steps
    if num_steps == WARMUP_STEPS:
        parser.error(f"rows of {num_steps} steps are those in the middle of {NUM_STEPS}")
    folder = prepared(arguments.images)
    done = {(r["apart"], int(r["seed"]), int(r["step"])) for r in read(SCORES)}
    jobs = [
        (folder, apart, seed, num_steps)
        for seed in range(arguments.seeds)
        for apart in arguments.apart
        if (apart, seed, num_steps) not in done
    ]
    for result in in_processes(score, jobs):
        for row in result["rows"]:
            append(SCORES, row)


if __name__ == "__main__":
    main()
