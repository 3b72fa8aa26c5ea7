"""The engine against the naive algorithm, on the same draws of one search.

    python benchmarks/engine.py --images FOLDER [--every 40] [--seeds 3] [--threads 1]

A search runs with the engine. At every ``--every``-th step, before it, what the step computes is
computed from the same weights, draws and pictures by every variant below, in turn; the sum over
these steps stands for the whole search. The naive algorithm runs each sample by itself and in
order, in torch's default memory format.

Gradients are compared in double precision: in single precision, another order of sums moves a few
of the many inputs of a ReLU that are almost 0 to its other side, which changes a gradient by more
than 1e-5 and says nothing about the algorithm. Appends to ``results/engine.csv``, and writes
``results/engine.md`` of it and of what ``benchmarks/resources.py`` measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from searches import COARSE, FINE, build_phase, search_config
from torch import Tensor
from torch.nn import functional as F
from workshop import RESULTS, Row, append, conditions, dataset, in_processes, prepared, read

from fpnas.cost import CostModel
from fpnas.networks import depthwise, supernet
from fpnas.search.engine import Engine
from fpnas.search.evaluator import SupernetEvaluator, WeightStep
from fpnas.search.loop import run_search
from fpnas.search.options import Phase, SearchOptions, StrategyName
from fpnas.space import load_space

CSV = RESULTS / "engine.csv"
PAGE = RESULTS / "engine.md"
NUM_COMPARED = 3


@dataclass(frozen=True)
class Variant:
    """A way to compute a step.

    Attributes:
        engine: What of it is on.
        channels_last: The memory format of the pictures.
        windowed: Whether small 5x5 gradients are computed in windows.
        in_place: Whether activations and the sums over branches are computed in place.
    """

    engine: Engine
    channels_last: bool = True
    windowed: bool = True
    in_place: bool = True


_OFF = Engine(merge_equal=False, share_prefixes=False, keep_activations=False)
_NAIVE = Variant(_OFF, channels_last=False, windowed=False, in_place=False)
VARIANTS = {
    "naive": _NAIVE,
    "channels last": replace(_NAIVE, channels_last=True),
    "windowed 5x5 gradients": replace(_NAIVE, windowed=True),
    "in place": replace(_NAIVE, in_place=True),
    "merge equal": replace(_NAIVE, engine=replace(_OFF, merge_equal=True)),
    "share prefixes": replace(_NAIVE, engine=replace(_OFF, merge_equal=True, share_prefixes=True)),
    "keep activations": replace(_NAIVE, engine=replace(_OFF, keep_activations=True)),
    "all, exact": Variant(Engine()),
    "all, threshold 1e-3": Variant(Engine(negligible_weight=1e-3)),
    "all, threshold 1e-1": Variant(Engine(negligible_weight=1e-1)),
}


class Measuring:
    """Wraps a search's evaluator, and measures before some of its steps.

    Attributes:
        seconds: Of every variant, over all measured steps.
        worst: Largest relative difference of a gradient to that of the naive algorithm.
        num_steps: Measured.
        num_samples: Drawn in these.
    """

    def __init__(self, every: int) -> None:
        self.every, self.step = every, -1
        self.seconds = dict.fromkeys(VARIANTS, 0.0)
        self.worst = dict.fromkeys(VARIANTS, 0.0)
        self.num_steps = self.num_samples = self._num_compared = 0

    def wrap(self, evaluator: SupernetEvaluator) -> None:
        """Measures an evaluator's passes from now on."""
        accumulate, score = evaluator.accumulate, evaluator.score

        def measured_accumulate(choices: Tensor, images: Tensor, labels: Tensor) -> WeightStep:
            self.step += 1
            if self.step % self.every == 0:
                self.num_steps += 1
                self.num_samples += len(choices)
                self._time(evaluator, accumulate, choices, images, labels)
                if len(choices) > 1 and self._num_compared < NUM_COMPARED:
                    self._compare(evaluator, accumulate, choices, images, labels)
            return accumulate(choices, images, labels)

        def measured_score(choices: Tensor, images: Tensor, labels: Tensor) -> Tensor:
            if self.step % self.every == 0:
                self._time(evaluator, score, choices, images, labels)
            return score(choices, images, labels)

        evaluator.accumulate = measured_accumulate  # type: ignore[method-assign]
        evaluator.score = measured_score  # type: ignore[method-assign]

    def _time(
        self,
        evaluator: SupernetEvaluator,
        function: Callable[[Tensor, Tensor, Tensor], object],
        choices: Tensor,
        images: Tensor,
        labels: Tensor,
    ) -> None:
        names = list(VARIANTS)
        # Every other time in reverse, so that none always runs on a warm cache.
        for name in names if self.num_steps % 2 else reversed(names):
            with _as(VARIANTS[name], evaluator) as layout:
                pictures = images.contiguous(memory_format=layout)
                started = time.perf_counter()
                function(choices, pictures, labels)
                self.seconds[name] += time.perf_counter() - started

    def _compare(
        self,
        evaluator: SupernetEvaluator,
        accumulate: Callable[[Tensor, Tensor, Tensor], object],
        choices: Tensor,
        images: Tensor,
        labels: Tensor,
    ) -> None:
        self._num_compared += 1
        shared = evaluator.supernet.double()
        reference: list[Tensor | None] = []
        for name, variant in VARIANTS.items():
            with _as(variant, evaluator) as layout:
                accumulate(choices, images.double().contiguous(memory_format=layout), labels)
            gradients = [p.grad for p in shared.parameters()]
            reference = reference or gradients
            self.worst[name] = max(self.worst[name], difference(gradients, reference))
        shared.float()
        evaluator.optimizer.zero_grad(set_to_none=True)


@contextmanager
def _as(variant: Variant, evaluator: SupernetEvaluator) -> Iterator[torch.memory_format]:
    """Lets an evaluator compute in a variant's way; yields the pictures' memory format."""
    changed: dict[str, tuple[object, object]] = {"engine": (evaluator, variant.engine)}
    if not variant.windowed:
        changed["_LARGEST_MAP"] = (depthwise, 0)
    if not variant.in_place:
        changed |= {name: (supernet, function) for name, function in PLAIN.items()}
    before = {name: getattr(owner, name) for name, (owner, _) in changed.items()}
    for name, (owner, value) in changed.items():
        setattr(owner, name, value)
    try:
        yield torch.channels_last if variant.channels_last else torch.contiguous_format
    finally:
        for name, (owner, _) in changed.items():
            setattr(owner, name, before[name])


def _plain_pooled_sum(branches: list[Tensor]) -> Tensor:
    return sum(branches[1:], start=branches[0]).mean(dim=(2, 3))


def _plain_merge_branches(branches: list[Tensor], scores: Tensor) -> Tensor:
    gates = (scores.sigmoid() if len(branches) == 1 else scores.softmax(dim=1))[..., None, None]
    weighted = [branch * gates[:, index] for index, branch in enumerate(branches)]
    return sum(weighted[1:], start=weighted[0])


PLAIN: dict[str, object] = {
    "ACTIVATION_FUNCTIONS": {
        "relu": lambda features, inplace: F.relu(features),
        "swish": lambda features, inplace: F.silu(features),
    },
    "pooled_sum": _plain_pooled_sum,
    "merge_branches": _plain_merge_branches,
}
"""What the supernet calls, with a new tensor for every result; residuals stay in place."""


def difference(found: list[torch.Tensor | None], expected: list[torch.Tensor | None]) -> float:
    """Norm of the difference of two gradients, relative to that of the second."""
    gap = total = 0.0
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            gap += float(((one if one is not None else 0.0) - other).square().sum())
            total += float(other.square().sum())
    return (gap / total) ** 0.5


def measure(folder: Path, every: int, strategy: StrategyName, seed: int, threads: int) -> Row:
    """Runs both phases of a search; the rows go under ``rows``."""
    torch.set_num_threads(threads)
    file = load_space("tiny")
    data = dataset(folder)
    costs = CostModel(file.open(), data.num_classes)
    search = None
    measuring = Measuring(every)
    options: dict[Phase, SearchOptions] = {
        "coarse": SearchOptions(**COARSE),
        "fine": SearchOptions(**FINE),
    }
    for phase, chosen in options.items():
        config = search_config(file, chosen, seed)
        search = build_phase(strategy, phase, costs, config, data, search)
        measuring.wrap(search.evaluator)
        run_search(search)
    naive = measuring.seconds["naive"]
    rows = [
        {
            "strategy": strategy,
            "seed": seed,
            "variant": name,
            "steps_measured": measuring.num_steps,
            "samples_measured": measuring.num_samples,
            "seconds": round(seconds, 2),
            "speedup": round(naive / seconds, 2),
            "worst_gradient_difference": float(f"{measuring.worst[name]:.1e}"),
            "threads": threads,
        }
        for name, seconds in measuring.seconds.items()
    ]
    return {"strategy": strategy, "seed": seed, "rows": rows}


def page() -> str:
    """The tables for people."""
    rows = read(CSV)
    lines = [
        "# The engine",
        "",
        "Made by `benchmarks/engine.py` and `benchmarks/resources.py`; `make bench-engine` runs",
        "both. Searches on `tiny`, tiny-imagenet-25 at 32 px, batches of 32 and 128 pictures. At",
        "steps spread over a whole search, every variant computes the same step from the same",
        "weights, draws and pictures. Each idea stands alone against the naive algorithm (every",
        "sample by itself, in order, in torch's default memory format), then all together; medians",
        "over the seeds. Gradients are compared in double precision at the first steps with more",
        "than one sample.",
    ]
    for strategy, threads in dict.fromkeys((r["strategy"], r["threads"]) for r in rows):
        own = [r for r in rows if (r["strategy"], r["threads"]) == (strategy, threads)]
        seeds = len({r["seed"] for r in own})
        lines += [
            "",
            f"## {strategy}, {threads} thread(s), {seeds} seed(s), "
            f"{own[0]['steps_measured']} steps each",
            "",
            "| variant | seconds | times faster | largest relative difference of the gradient |",
            "|---|---|---|---|",
        ]
        for name in VARIANTS:
            of = [r for r in own if r["variant"] == name]
            numbers = [
                statistics.median(float(r[column]) for r in of) for column in ("seconds", "speedup")
            ]
            worst = max(float(r["worst_gradient_difference"]) for r in of)
            lines.append(f"| {name} | {numbers[0]:.1f} | {numbers[1]:.2f} | {worst:.1e} |")
    for title, path in (("Peak memory", "memory.csv"), ("Ranks", "ranks.csv")):
        table = read(RESULTS / path)
        if table:
            columns = [c for c in table[0] if c not in conditions()]
            lines += ["", f"## {title}", "", f"| {' | '.join(columns)} |"]
            lines += ["|---" * len(columns) + "|"]
            lines += [f"| {' | '.join(r[c] for c in columns)} |" for r in table]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures what is missing and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tiny-imagenet-25, extracted")
    parser.add_argument("--every", type=int, default=40, help="steps between two measurements")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--strategies", nargs="*", default=["fpnas"])
    parser.add_argument("--threads", type=int, default=1, help="of a search; seeds share the cores")
    arguments = parser.parse_args()
    folder = prepared(arguments.images)
    known = {(r["strategy"], int(r["seed"]), int(r["threads"])) for r in read(CSV)}
    jobs = [
        (folder, arguments.every, strategy, seed, arguments.threads)
        for seed in range(arguments.seeds)
        for strategy in arguments.strategies
        if (strategy, seed, arguments.threads) not in known
    ]
    workers = max(1, (os.cpu_count() or 1) // arguments.threads)
    for result in in_processes(measure, jobs, workers):
        for row in result["rows"]:
            append(CSV, row)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
