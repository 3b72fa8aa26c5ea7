"""The open choices of the estimator, studied by factorial experiments on a model of real scores.

    python benchmarks/studies.py --images FOLDER [--seeds 5]

A search takes minutes, and a factorial experiment hundreds of them. So shared weights of ``tiny``
are trained once, 300 architectures are scored with them on 12 batches, and a linear model of these
log-likelihoods stands in for the supernet: a search on it takes seconds, and its optimum is known
exactly. The idea is that of surrogate benchmarks (NAS-Bench-301, Zela et al., ICLR 2022). What a
model of trained weights cannot tell is how weights and distribution change together; for that see
``benchmarks/searches.py``.

Writes ``results/likelihoods.csv`` (the scores), ``results/studies.csv`` (one row a search) and
``results/studies.md``.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from searches import COARSE, build_phase, search_config
from torch import Tensor
from workshop import RESULTS, Row, append, dataset, in_processes, prepared, read, uniform_within

from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, JointDistribution
from fpnas.search.decode import most_probable_within
from fpnas.search.evaluator import TableEvaluator
from fpnas.search.loop import run_search
from fpnas.search.options import SearchOptions
from fpnas.search.probabilistic import ProbabilisticSearch
from fpnas.search.strategies import starting_distribution
from fpnas.space import CHANNELS, KERNEL, SearchSpace, load_space
from fpnas.stages.searching import StagePictures

LIKELIHOODS = RESULTS / "likelihoods.csv"
STUDIES = RESULTS / "studies.csv"
PAGE = RESULTS / "studies.md"

SPACE = "tiny"
NUM_CLASSES = 25
NUM_ARCHITECTURES, NUM_BATCHES, BATCH_SIZE = 300, 12, 128
TRAINING = {**COARSE, "num_steps": 1000, "warmup_steps": 0}

STEPS = 400
BASE: dict[str, Any] = {"architecture_learning_rate": 0.1, "min_samples": 2, "switch": 250}
STUDIES_OF: dict[str, dict[str, list[Any]]] = {
    "likelihood": {
        "temperature": ["sum", "mean", 0.25, 0.5, 0.75],
        "baseline": [True, False],
        "architecture_learning_rate": [0.03, 0.1, 0.3],
    },
    "samples": {
        "sampling_rate": [0.5, 0.25, 0.125],
        "min_samples": [1, 2],
        "switch": [0, 100, 250, 400],
    },
    "speed": {
        "architecture_learning_rate": [0.05, 0.1, 0.2, 0.4],
        "sampling_rate": [0.5, 0.25, 0.125],
    },
    "fixed K": {"architecture_learning_rate": [0.05, 0.1, 0.2], "num_samples": [7]},
    "cost": {"cost_weight": [0.25, 0.5, 1.0, 2.0], "budget": [1.0, 0.7]},
}
"""The factors of every study and their levels; a number as temperature is a share of K that the
effective sample size is held at, ``switch`` is the paper's theta in steps, and ``budget`` a share
of the space's own."""


def collect(folder: Path) -> Row:
    """Trains shared weights on uniform draws, and scores architectures batch by batch."""
    file = load_space(SPACE)
    space = file.open()
    data = dataset(folder)
    costs = CostModel(space, data.num_classes)
    config = search_config(file, SearchOptions(**TRAINING), seed=0)
    search = build_phase("random", "coarse", costs, config, data)
    run_search(search)
    choices = torch.tensor(uniform_within(space, data.num_classes, NUM_ARCHITECTURES, seed=1))
    batches = StagePictures(config, data, "cpu").fixed("alpha", NUM_BATCHES)
    columns = [search.evaluator.score(choices, *batch) / len(batch[1]) for batch in batches]
    joint = ChoiceLayout.of(space).ravel(choices).tolist()
    for numbers, values in zip(joint, torch.stack(columns, dim=1).tolist(), strict=True):
        named = {f"batch{number}": round(value, 5) for number, value in enumerate(values)}
        words = {"joint_choices": " ".join(map(str, numbers))}
        append(LIKELIHOODS, {**words, **named}, measured=False)
    return {"scored": len(choices)}


def features(layout: ChoiceLayout, choices: Tensor) -> NDArray[np.float64]:
    """One-hot choices (A, F); those of a bypassed group count as none, but for its width."""
    columns = []
    for group, variable in np.ndindex(*layout.sizes.shape):
        hot = torch.nn.functional.one_hot(
            choices[:, group, variable], int(layout.sizes[group, variable])
        ).double()
        if variable not in (KERNEL, CHANNELS) and layout.sizes[group, KERNEL] > 1:
            hot = hot * (choices[:, group, KERNEL, None] > 0)
        columns.append(hot)
    columns.append(torch.ones(len(choices), 1, dtype=torch.float64))
    found: NDArray[np.float64] = torch.cat(columns, dim=1).numpy()
    return found


@dataclass(frozen=True)
class Surrogate:
    """A linear model of log-likelihoods per picture.

    Attributes:
        space: Over which.
        coefficients: For every batch, (F, batches).
        noise: Standard deviation of what the model does not explain, nats a picture.
        explained: Share of the variance of held-out architectures' mean that it explains.
    """

    space: SearchSpace
    coefficients: NDArray[np.float64]
    noise: float
    explained: float

    @classmethod
    def fit(cls, space: SearchSpace) -> Surrogate:
        """Fits the model to the scores, by ridge regression."""
        rows = read(LIKELIHOODS)
        layout = ChoiceLayout.of(space)
        joint = torch.tensor([[int(n) for n in r["joint_choices"].split()] for r in rows])
        values = np.array([[float(r[f"batch{n}"]) for n in range(NUM_BATCHES)] for r in rows])
        table = features(layout, layout.unravel(joint))
        train = np.arange(len(rows)) % 4 > 0
        held_out = table[~train] @ _ridge(table[train], values[train])
        gap = (held_out - values[~train]).mean(axis=1)
        explained = 1 - gap.var() / values[~train].mean(axis=1).var()
        coefficients = _ridge(table, values)
        return cls(space, coefficients, float((table @ coefficients - values).std()), explained)

    def mean(self, choices: Tensor) -> NDArray[np.float64]:
        """The expected log-likelihood per picture, (A,)."""
        found: NDArray[np.float64] = features(
            ChoiceLayout.of(self.space), choices
        ) @ self.coefficients.mean(axis=1)
        return found

    def tables(self) -> NDArray[np.float64]:
        """What each joint choice of a group adds to the first of all, (G, J, batches)."""
        layout = ChoiceLayout.of(self.space)
        sizes = layout.joint_sizes.tolist()
        found = np.zeros((len(sizes), max(sizes), NUM_BATCHES))
        first = features(layout, torch.zeros(1, *layout.sizes.shape, dtype=torch.int64))
        for group, size in enumerate(sizes):
            joint = torch.zeros(size, len(sizes), dtype=torch.int64)
            joint[:, group] = torch.arange(size)
            gap = features(layout, layout.unravel(joint)) - first
            found[group, :size] = gap @ self.coefficients
        return found

    def evaluator(self, seed: int) -> TableEvaluator:
        """Log-likelihoods of a random batch each time, with the noise of the rest."""
        generator = np.random.default_rng(seed)
        layout, tables = ChoiceLayout.of(self.space), self.tables()

        def log_likelihood(choices: Tensor) -> Tensor:
            joint = layout.ravel(choices).numpy()
            batch = tables[..., generator.integers(NUM_BATCHES)]
            values = batch[np.arange(len(batch)), joint].sum(axis=1)
            distinct, owner = np.unique(joint, axis=0, return_inverse=True)
            noise = generator.normal(0, self.noise, len(distinct))[owner.ravel()]
            return BATCH_SIZE * torch.from_numpy(values + noise)

        return TableEvaluator(log_likelihood, BATCH_SIZE)

    def optimum(self, costs: CostModel) -> Tensor:
        """The best architecture within the budget: the model is a sum over groups."""
        distribution = JointDistribution(ChoiceLayout.of(self.space))
        with torch.no_grad():
            mean = torch.from_numpy(self.tables().mean(axis=-1))
            distribution.logits.copy_(1000 * mean)
        return most_probable_within(distribution, costs, costs.space.target_macs).choices


def _ridge(table: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    penalty = np.eye(table.shape[1])
    penalty[-1, -1] = 0.0  # the constant
    found: NDArray[np.float64] = np.linalg.solve(table.T @ table + penalty, table.T @ values)
    return found


def cell(study: str, levels: dict[str, Any], seeds: int) -> Row:
    """Searches under several seeds; the rows go under ``rows``."""
    chosen = {**BASE, **levels}
    switch, budget = chosen.pop("switch"), chosen.pop("budget", 1.0)
    if isinstance(chosen.get("temperature"), float):
        chosen["ess_fraction"], chosen["temperature"] = chosen["temperature"], "ess"
    file = load_space(SPACE)
    space = file.open(target_macs=round(budget * file.open().target_macs))
    costs = CostModel(space, NUM_CLASSES)
    surrogate = Surrogate.fit(space)
    best = surrogate.mean(surrogate.optimum(costs)[None]).item()
    uniform = torch.tensor(uniform_within(space, NUM_CLASSES, 1000, seed=2))
    values = surrogate.mean(uniform)
    rows = []
    for seed in range(seeds):
        started = time.monotonic()
        evaluator = surrogate.evaluator(seed)
        distribution, num_samples = None, 0
        for kind, num_steps in (("coarse", switch), ("fine", STEPS - switch)):
            if not num_steps:
                continue
            options = SearchOptions(num_steps=num_steps, **chosen)
            strategy = "fpnas" if switch else "joint"
            start = starting_distribution(strategy, kind, costs, options, distribution)  # type: ignore[arg-type]
            search = ProbabilisticSearch(start, evaluator, costs, options, seed)
            run_search(search)
            distribution, num_samples = search.distribution, num_samples + search.num_samples
        assert distribution is not None
        found = most_probable_within(distribution, costs, space.target_macs)
        value = surrogate.mean(found.choices[None]).item()
        mode_macs = int(costs.macs(distribution.most_probable()[None])[0])
        rows.append(
            {
                "study": study,
                **{name: levels.get(name, "") for name in FACTORS},
                "seed": seed,
                "regret": round((best - value) / (best - values.mean()), 4),
                "better_than": round(float((values < value).mean()), 4),
                "drawn": num_samples,
                "entropy_nats": round(distribution.entropy().item(), 3),
                "mode_over_budget": round(mode_macs / space.target_macs, 3),
                "macs": found.macs,
                "seconds": round(time.monotonic() - started, 2),
            }
        )
    return {"study": study, **levels, "rows": rows}


FACTORS = list(dict.fromkeys(name for levels in STUDIES_OF.values() for name in levels))


def cells(study: str) -> Iterator[dict[str, Any]]:
    """Every combination of a study's levels."""
    names = list(STUDIES_OF[study])
    for values in itertools.product(*STUDIES_OF[study].values()):
        yield dict(zip(names, values, strict=True))


def table(study: str, factors: tuple[str, ...]) -> list[str]:
    """Means over the seeds and over the other factors."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in read(STUDIES):
        if row["study"] == study:
            groups[tuple(row[name] for name in factors)].append(row)
    columns = ("regret", "better_than", "drawn", "entropy_nats", "mode_over_budget")
    heads = ("regret", "better than, of random", "samples", "entropy, nats", "mode / budget")
    lines = [f"| {' | '.join([*factors, *heads])} |", "|---" * (len(factors) + len(heads)) + "|"]
    order = {tuple(map(_text, c.values())): n for n, c in enumerate(cells(study))}
    for key, rows in sorted(groups.items(), key=lambda item: order[item[0]]):
        numbers = [[float(r[column]) for r in rows] for column in columns]
        error = statistics.stdev(numbers[0]) / len(rows) ** 0.5
        texts = [f"{statistics.mean(numbers[0]):.3f} ± {error:.3f}"]
        texts.append(f"{100 * statistics.mean(numbers[1]):.1f} %")
        texts += [f"{statistics.mean(values):.4g}" for values in numbers[2:]]
        lines.append(f"| {' | '.join([*key, *texts])} |")
    return lines


def page() -> str:
    """The page for people; its conclusions are written by hand in ``docs/choices.md``."""
    space = load_space(SPACE).open()
    surrogate = Surrogate.fit(space)
    lines = [
        "# Factorial studies of the estimator",
        "",
        "Made by `benchmarks/studies.py` from `studies.csv`. Searches on a model of the",
        f"log-likelihoods of `{SPACE}`: {NUM_ARCHITECTURES} architectures, {NUM_BATCHES} batches",
        f"of {BATCH_SIZE} pictures, shared weights after {TRAINING['num_steps']} uniform steps.",
        f"The model explains {100 * surrogate.explained:.0f} % of the variance of architectures",
        f"that it was not fitted to; {surrogate.noise:.4f} nats a picture are left as noise.",
        f"{STEPS} steps a search. Regret: 0 is the optimum within the budget, 1 the mean of random",
        "architectures within it, ± the standard error.",
    ]
    for study, levels in STUDIES_OF.items():
        lines += ["", f"## {study}: {' x '.join(levels)}", "", *table(study, tuple(levels))]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Scores, searches and writes what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tiny-imagenet-25, extracted")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    if not LIKELIHOODS.is_file():
        list(in_processes(collect, [(prepared(arguments.images),)]))
    known = {(r["study"], *(r[name] for name in FACTORS)) for r in read(STUDIES)}
    jobs = [
        (study, levels, arguments.seeds)
        for study in STUDIES_OF
        for levels in cells(study)
        if (study, *(_text(levels.get(name, "")) for name in FACTORS)) not in known
    ]
    for result in in_processes(cell, jobs):
        for row in result["rows"]:
            append(STUDIES, row, measured=False)
    PAGE.write_text(page(), encoding="utf-8")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


if __name__ == "__main__":
    main()
