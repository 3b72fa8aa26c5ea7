"""The engine against the naive algorithm, on the same draws of one search.

    python benchmarks/engine.py --images FOLDER [--every 20]

A search runs with the engine. At every ``--every``-th step, before it, the step's gradient and
likelihoods are computed again from the same weights, draws and pictures by every variant below, in
turn; the sum over these steps stands for the whole search. The naive algorithm runs each sample
by itself and in order, in torch's default memory format.

Gradients are compared in double precision: in single precision, another order of sums moves a few
of the many inputs of a ReLU that are almost 0 to its other side, which changes a gradient by more
than 1e-5 and says nothing about the algorithm. Writes ``results/engine.csv`` and
``results/engine.md``.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

# Two threads, as a search on this machine has; the workshop's jobs have one.
import torch
from searches import COARSE, FINE, build_phase, search_config
from workshop import RESULTS, Row, append, dataset, prepared

from fpnas.cost import CostModel
from fpnas.networks import depthwise
from fpnas.search.engine import Engine
from fpnas.search.evaluator import SupernetEvaluator
from fpnas.search.loop import run_search
from fpnas.search.options import Phase, SearchOptions, StrategyName
from fpnas.space import load_space

CSV = RESULTS / "engine.csv"
PAGE = RESULTS / "engine.md"


@dataclass(frozen=True)
class Variant:
    """A way to compute a step.

    Attributes:
        engine: What of it is on.
        channels_last: The memory format of the pictures.
        windowed: Whether small 5x5 gradients are computed in windows.
    """

    engine: Engine
    channels_last: bool = True
    windowed: bool = True


_OFF = Engine(merge_equal=False, share_prefixes=False)
VARIANTS = {
    "naive": Variant(_OFF, channels_last=False, windowed=False),
    "channels last": Variant(_OFF, windowed=False),
    "windowed 5x5 gradients": Variant(_OFF, channels_last=False),
    "merge equal": Variant(
        Engine(merge_equal=True, share_prefixes=False), channels_last=False, windowed=False
    ),
    "share prefixes": Variant(Engine(), channels_last=False, windowed=False),
    "all, exact": Variant(Engine()),
    "all, threshold 1e-3": Variant(Engine(negligible_weight=1e-3)),
    "all, threshold 1e-1": Variant(Engine(negligible_weight=1e-1)),
}


class Measuring:
    """Wraps a search's evaluator, and measures before some of its steps."""

    def __init__(self, evaluator: SupernetEvaluator, every: int) -> None:
        self.evaluator, self.every, self.step = evaluator, every, 0
        self.seconds = dict.fromkeys(VARIANTS, 0.0)
        self.worst = dict.fromkeys(VARIANTS, 0.0)
        self.num_samples = self.num_steps = 0
        self._train, self._score = evaluator.accumulate, evaluator.score

    def accumulate(self, choices, images, labels):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """The evaluator's own, after the measurement."""
        if self.step % self.every == 0:
            self._measure(choices, images, labels)
        self.step += 1
        return self._train(choices, images, labels)

    def _measure(self, choices: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.num_steps += 1
        self.num_samples += len(choices)
        names = list(VARIANTS)
        # Every other time in reverse, so that none always runs on a warm cache.
        for name in ["naive", *(names[1:] if self.num_steps % 2 else names[:0:-1])]:
            variant = VARIANTS[name]
            self.evaluator.engine = variant.engine
            layout = torch.channels_last if variant.channels_last else torch.contiguous_format
            pictures = images.contiguous(memory_format=layout)
            depthwise._LARGEST_MAP = 7 if variant.windowed else 0
            started = time.perf_counter()
            self._train(choices, pictures, labels)
            self._score(choices, pictures, labels)
            self.seconds[name] += time.perf_counter() - started
        if self.num_steps % 4 == 1:
            self._compare(choices, images, labels)
        self.evaluator.engine = Engine()
        depthwise._LARGEST_MAP = 7

    def _compare(self, choices: torch.Tensor, images: torch.Tensor, labels: torch.Tensor) -> None:
        supernet = self.evaluator.supernet.double()
        reference: list[torch.Tensor | None] = []
        for name, variant in VARIANTS.items():
            self.evaluator.engine = variant.engine
            layout = torch.channels_last if variant.channels_last else torch.contiguous_format
            depthwise._LARGEST_MAP = 7 if variant.windowed else 0
            self._train(choices, images.double().contiguous(memory_format=layout), labels)
            gradients = [p.grad for p in supernet.parameters()]
            reference = reference or gradients
            self.worst[name] = max(self.worst[name], difference(gradients, reference))
        supernet.float()


def difference(found: list[torch.Tensor | None], expected: list[torch.Tensor | None]) -> float:
    """Norm of the difference of two gradients, relative to that of the second."""
    gap = total = 0.0
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            gap += float(((one if one is not None else 0.0) - other).square().sum())
            total += float(other.square().sum())
    return (gap / total) ** 0.5


def measure(folder: Path, every: int, strategy: StrategyName, seed: int) -> list[Row]:
    """Runs both phases of a search."""
    file = load_space("tiny")
    space = file.open()
    data = dataset(folder)
    costs = CostModel(space, data.num_classes)
    search, measuring = None, None
    options: dict[Phase, SearchOptions] = {
        "coarse": SearchOptions(**COARSE),
        "fine": SearchOptions(**FINE),
    }
    for phase, chosen in options.items():
        search = build_phase(
            strategy, phase, costs, search_config(file, chosen, seed), data, search
        )
        if measuring is None:
            measuring = Measuring(search.evaluator, every)
        else:
            measuring.evaluator = search.evaluator
            measuring._train, measuring._score = search.evaluator.accumulate, search.evaluator.score
        search.evaluator.accumulate = measuring.accumulate
        run_search(search)
    assert measuring is not None
    naive = measuring.seconds["naive"]
    return [
        {
            "strategy": strategy,
            "seed": seed,
            "variant": name,
            "steps_measured": measuring.num_steps,
            "samples_measured": measuring.num_samples,
            "seconds": round(seconds, 2),
            "speedup": round(naive / seconds, 2),
            "worst_gradient_difference": float(f"{measuring.worst[name]:.1e}"),
            "threads": torch.get_num_threads(),
        }
        for name, seconds in measuring.seconds.items()
    ]


def page(rows: list[Row]) -> str:
    """The table for people."""
    lines = [
        "# The engine against the naive algorithm",
        "",
        f"Made by `benchmarks/engine.py`: {rows[0]['strategy']} on `tiny`, tiny-imagenet-25 at",
        f"32 px, batches of 32 and 128 pictures, {rows[0]['steps_measured']} steps measured of a",
        f"whole search, {rows[0]['threads']} threads. Each idea alone against the naive algorithm,",
        "then all. Gradients are compared in double precision.",
        "",
        "| variant | seconds | times faster | largest relative difference of the gradient |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {r['variant']} | {r['seconds']} | {r['speedup']} | {r['worst_gradient_difference']} |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tiny-imagenet-25, extracted")
    parser.add_argument("--every", type=int, default=20, help="steps between two measurements")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = measure(prepared(arguments.images), arguments.every, "fpnas", 0)
    CSV.unlink(missing_ok=True)
    for row in rows:
        append(CSV, row)
    PAGE.write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
