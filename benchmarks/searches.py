"""Searches with every strategy under several seeds, and trains what they find with one recipe.

    python benchmarks/searches.py --images FOLDER [--space tiny] [--seeds 3] [--variants NAME ...]

Appends to ``results/searches.csv`` (one row a search), ``results/search_histories.csv`` (one row a
recorded step) and ``results/retrained.csv``. ``benchmarks/search_report.py`` makes the page of it.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from retrain import GROUND_TRUTH
from workshop import RESULTS, Row, append, dataset, in_processes, prepared, read, retrain

from fpnas.architecture import Architecture, architecture_at
from fpnas.cost import CostModel
from fpnas.data.dataset import Dataset
from fpnas.estimator import adaptive_num_samples
from fpnas.search.decode import most_probable_within
from fpnas.search.loop import AbstractSearch, run_search
from fpnas.search.options import Phase, SearchOptions, StrategyName, WeightOptions
from fpnas.search.strategies import build_search
from fpnas.space import SearchSpace, SpaceFile, load_space
from fpnas.stages.config import SpaceConfig
from fpnas.stages.searching import SearchConfig, StagePictures, peak_memory_bytes

SEARCHES = RESULTS / "searches.csv"
HISTORIES = RESULTS / "search_histories.csv"
HISTORY_COLUMNS = ("entropy_nats", "num_samples", "expected_macs", "skip_rate", "agreement")


@dataclass(frozen=True)
class Variant:
    """A search to be measured.

    Attributes:
        strategy: Its name.
        coarse: Options that differ from :data:`COARSE`.
        fine: Options that differ from :data:`FINE`.
        always_fixed: Draw as many architectures in the warm-up as PARSEC does in every step.
        fresh_optimizer: Forget the momentum of the shared weights at the switch.
    """

    strategy: StrategyName
    coarse: dict[str, Any] = field(default_factory=dict)
    fine: dict[str, Any] = field(default_factory=dict)
    always_fixed: bool = False
    fresh_optimizer: bool = False


COARSE: dict[str, Any] = {
    "num_steps": 850,
    "warmup_steps": 600,
    "warmup_samples": 1,
    "learning_rate": 0.1,
    "architecture_learning_rate": 0.1,
}
FINE: dict[str, Any] = {
    "num_steps": 150,
    "learning_rate": 0.03,
    "architecture_learning_rate": 0.1,
}
# Sixty-four architectures have 4.2 nats: a quarter of them would be one sample a step.
SMALL: dict[str, dict[Phase, dict[str, Any]]] = {
    "tiny_64": {
        "coarse": {"num_steps": 750, "sampling_rate": 1.0},
        "fine": {"num_steps": 100, "sampling_rate": 1.0},
    }
}
BATCH_SIZE = 32
ARCHITECTURE_BATCH_SIZE = 128
# A masked step costs about forty of an architecture's, so dnas does fewer of them.
_DNAS = ({"num_steps": 80, "warmup_steps": 30}, {"num_steps": 30})
_LONG_DNAS = ({"num_steps": 240, "warmup_steps": 90}, {"num_steps": 90})
# All steps train the weights, then 150 architectures are scored.
_TRAINED, _SCORED = {"num_steps": 1500, "warmup_steps": 0}, {"num_steps": 15}
VARIANTS = {
    "fpnas": Variant("fpnas"),
    # As published: the same number of samples in every step.
    "parsec": Variant("parsec", always_fixed=True),
    "parsec, K = 1 in the warm-up": Variant("parsec"),
    "joint": Variant("joint"),
    "random": Variant("random", _TRAINED, _SCORED),
    "evolution": Variant("evolution", _TRAINED, _SCORED),
    "dnas": Variant("dnas", *_DNAS),
    "dnas, three times as long": Variant("dnas", *_LONG_DNAS),
    "factorized": Variant("factorized"),
    "fpnas, longer warm-up": Variant("fpnas", {"num_steps": 3250, "warmup_steps": 3000}),
    "fpnas, fresh optimiser": Variant("fpnas", fresh_optimizer=True),
    "fpnas, switch 75 steps earlier": Variant("fpnas", {"num_steps": 775}, {"num_steps": 225}),
}


def search(folder: Path, space_name: str, name: str, seed: int) -> Row:
    """Runs both phases of a search, and returns its row; its history goes under ``history``."""
    variant = VARIANTS[name]
    file = load_space(space_name)
    space = file.open()
    data = dataset(folder)
    busy = time.process_time()
    costs = CostModel(space, data.num_classes)
    history: list[list[float]] = []
    phases: dict[str, AbstractSearch] = {}
    seconds: dict[str, float] = {}
    for phase, chosen in options_of(variant, space).items():
        config = search_config(file, chosen, seed)
        started = time.monotonic()
        phases[phase] = build_phase(
            variant.strategy, phase, costs, config, data, phases.get("coarse")
        )
        if phase == "fine" and variant.fresh_optimizer:
            phases[phase].evaluator.optimizer.state.clear()
        run_search(
            phases[phase],
            on_step=lambda record: history.append([record[c] for c in HISTORY_COLUMNS]),
        )
        seconds[phase] = time.monotonic() - started
    fine = phases["fine"]
    decoded = most_probable_within(fine.distribution, costs, space.target_macs)
    architecture = architecture_at(space, decoded.choices.tolist())
    bill = fine.evaluator.bill
    return {
        "space": file.name,
        "variant": name,
        "seed": seed,
        "seconds": round(sum(seconds.values()), 1),
        "cpu_seconds": round(time.process_time() - busy, 1),
        "coarse_seconds": round(seconds["coarse"], 1),
        "num_steps": sum(s.step for s in phases.values()),
        "num_samples": sum(s.num_samples for s in phases.values()),
        "num_forwards": bill.num_forwards,
        "num_backwards": bill.num_backwards,
        "peak_mib": round(peak_memory_bytes() / 2**20),
        "entropy_nats": round(fine.distribution.entropy().item(), 3),
        "macs": decoded.macs,
        "is_mode": decoded.is_mode,
        "sha256": architecture.sha256,
        "architecture": str(architecture),
        "document": json.dumps(architecture.to_json()),
        "history": history,
    }


def options_of(variant: Variant, space: SearchSpace) -> dict[Phase, SearchOptions]:
    """The options of both phases on a space."""
    small = SMALL.get(space.name, {})
    coarse = {**COARSE, **small.get("coarse", {}), **variant.coarse}
    fine = {**FINE, **small.get("fine", {}), **variant.fine}
    if variant.always_fixed:
        rate = coarse.get("sampling_rate", SearchOptions(1).sampling_rate)
        coarse["warmup_samples"] = adaptive_num_samples(space.uniform_entropy_nats, rate)
    return {"coarse": SearchOptions(**coarse), "fine": SearchOptions(**fine)}


def search_config(file: SpaceFile, options: SearchOptions, seed: int) -> SearchConfig:
    """A search of a space at its first operating point, as stages are given it."""
    space = file.open()
    place = SpaceConfig(
        definition=file.model_dump(mode="json"),
        model=space.model,
        input_size=space.input_size,
        target_macs=space.target_macs,
    )
    return SearchConfig(
        space=place,
        search=options,
        seed=seed,
        batch_size=BATCH_SIZE,
        architecture_batch_size=ARCHITECTURE_BATCH_SIZE,
    )


def build_phase(
    strategy: StrategyName,
    phase: Phase,
    costs: CostModel,
    config: SearchConfig,
    data: Dataset,
    coarse: AbstractSearch | None = None,
) -> AbstractSearch:
    """Builds a phase; the fine one goes on with the weights and the bill of the coarse one."""
    torch.manual_seed(config.seed)
    found = build_search(
        strategy,
        phase,
        costs,
        config.search,
        pictures=StagePictures(config, data, "cpu"),
        weights=WeightOptions(),
        seed=2 * config.seed + (phase == "fine"),
        previous=coarse.distribution if coarse else None,
    )
    if coarse is not None:
        found.evaluator.load_state(coarse.evaluator.state())
    return found


def main() -> None:
    """Searches and trains what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tiny-imagenet-25, extracted")
    parser.add_argument("--space", default="tiny", help="tiny, or ground-truth")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, help="searches at a time; all cores by default")
    parser.add_argument("--variants", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    folder = prepared(arguments.images)
    space = str(GROUND_TRUTH) if arguments.space == "ground-truth" else arguments.space
    space_name = load_space(space).name
    known = {(r["space"], r["variant"], int(r["seed"])) for r in read(SEARCHES)}
    jobs = [
        (folder, space, variant, seed)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        for variant in arguments.variants
        if (space_name, variant, seed) not in known
    ]
    for row in in_processes(search, jobs, arguments.workers, fresh=True):
        for step, values in enumerate(row.pop("history")):
            if step % 5 == 0:
                names = {key: row[key] for key in ("space", "variant", "seed")}
                rounded = [float(f"{value:.4g}") for value in values]
                append(
                    HISTORIES,
                    {**names, "step": step, **dict(zip(HISTORY_COLUMNS, rounded, strict=True))},
                    measured=False,
                )
        append(SEARCHES, row)
    found = [r for r in read(SEARCHES) if r["space"] == space_name]
    wanted = {r["sha256"]: Architecture.from_json(json.loads(r["document"])) for r in found}
    retrain(folder, [(architecture, 0) for architecture in wanted.values()], arguments.workers)


if __name__ == "__main__":
    main()
