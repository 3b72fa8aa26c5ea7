"""What the measurements of searches share: pictures, one recipe, and processes for the jobs.

Every job runs with one thread, and as many run at a time as there are cores: on small networks
this does more than threads do, and all jobs are timed under the same load. Rows are appended to
their table as they come, so that a measurement that was cut short goes on where it stopped.
"""

from __future__ import annotations

import csv
import functools
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

# Before torch is imported, here and in the processes of the pool.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"

import torch

from fpnas.architecture import Architecture, architecture_at
from fpnas.cost import CostModel
from fpnas.data.dataset import Dataset
from fpnas.data.options import PrepareOptions
from fpnas.data.prepare import prepare
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.memory import keep_freed_memory
from fpnas.networks.description import AnyArchitecture, network_cost
from fpnas.space import SearchSpace
from fpnas.stages.training import Workbench
from fpnas.stages.training_config import TrainingConfig
from fpnas.training.loop import label_loss
from fpnas.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
RETRAINED = RESULTS / "retrained.csv"
RECIPE = Recipe(epochs=6, batch_size=128, learning_rate=0.15, warmup_epochs=1)
"""The one recipe that all architectures are trained with."""

Row = dict[str, Any]


def prepared(images: Path) -> Path:
    """Prepares the pictures once, beside them, and returns the folder."""
    folder = images.parent / f"{images.name}-prepared"
    if not folder.exists():
        prepare(PrepareOptions(str(images)), folder)
    return folder


@functools.cache
def dataset(folder: Path) -> Dataset:
    """Opens prepared pictures; a process does it once, and decodes them once."""
    return Dataset(lambda name: folder / name)


def searched(variant: str, seed: int) -> Architecture:
    """What a search of ``tiny`` found; from ``results/searches.csv``."""
    rows = [r for r in read(RESULTS / "searches.csv") if r["space"] == "tiny"]
    found = next(r for r in rows if (r["variant"], int(r["seed"])) == (variant, seed))
    return Architecture.from_json(json.loads(found["document"]))


def train(folder: Path, architecture: AnyArchitecture, seed: int, recipe: Recipe = RECIPE) -> Row:
    """Trains an architecture from scratch and scores it on the validation pictures."""
    data = dataset(folder)
    config = TrainingConfig(recipe=recipe, seed=seed)
    bench = Workbench(data, architecture, "cpu", config)
    trainer = bench.trainer(bench.network(architecture, seed), recipe, label_loss(recipe))
    started = time.monotonic()
    found = trainer.run(lambda record: None)
    macs, params = network_cost(architecture, data.num_classes)
    return {
        "space": architecture.space if isinstance(architecture, Architecture) else "",
        "sha256": architecture.sha256,
        "architecture": str(architecture),
        "macs": macs,
        "params": params,
        "seed": seed,
        "epochs": recipe.epochs,
        "top1": round(found.top1, 4),
        "top5": round(found.top5, 4),
        "loss": round(found.loss, 4),
        "seconds": round(time.monotonic() - started, 1),
    }


def uniform_within(space: SearchSpace, num_classes: int, number: int, seed: int) -> list[list[Any]]:
    """Different architectures drawn uniformly within the budget, as nested lists of choices."""
    costs = CostModel(space, num_classes)
    distribution = FactorizedDistribution(ChoiceLayout.of(space))
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Any]] = {}
    while len(found) < number:
        choices = distribution.sample(1, generator)
        if int(costs.macs(choices)[0]) <= space.target_macs:
            path = str(architecture_at(space, choices[0].tolist()))
            found.setdefault(path, choices[0].tolist())
    return list(found.values())


def every_architecture(space: SearchSpace) -> list[list[Any]]:
    """All choices of a space, those that compute the same once."""
    layout = ChoiceLayout.of(space)
    axes = [torch.arange(int(size)) for size in layout.joint_sizes]
    joint = torch.cartesian_prod(*axes)
    choices = layout.unravel(joint)
    named = {str(architecture_at(space, c)): c for c in choices.tolist()}
    return list(named.values())


def read(path: Path) -> list[Row]:
    """Rows of a table; none when it is not there."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def retrain(
    folder: Path, jobs: Sequence[tuple[Architecture, int]], workers: int | None = None
) -> None:
    """Trains architectures under seeds, and appends what is missing to :data:`RETRAINED`."""
    known = {(row["sha256"], int(row["seed"]), int(row["epochs"])) for row in read(RETRAINED)}
    missing = {
        (architecture.sha256, seed): (folder, architecture, seed)
        for architecture, seed in jobs
        if (architecture.sha256, seed, RECIPE.epochs) not in known
    }
    for row in in_processes(train, list(missing.values()), workers):
        append(RETRAINED, row)


def append(path: Path, row: Row, *, measured: bool = True) -> None:
    """Appends a row, with where and with what it was measured."""
    if measured:
        row = {**row, **conditions()}
    new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


@functools.cache
def conditions() -> Row:
    """The commit, the machine and the versions of a measurement."""
    words = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    return {
        "commit": commit,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread a job",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def in_processes(
    function: Callable[..., Row],
    jobs: Sequence[tuple[Any, ...]],
    workers: int | None = None,
    *,
    fresh: bool = False,
) -> Iterator[Row]:
    """Runs jobs in processes of one thread each, and yields their rows as they end.

    Args:
        function: Runs a job.
        jobs: Its arguments.
        workers: Jobs at a time; as many as there are cores by default.
        fresh: Whether every job gets a process of its own, so that its memory can be told.
    """
    context = multiprocessing.get_context("spawn")
    started = time.monotonic()
    tasks = 1 if fresh else None
    with ProcessPoolExecutor(
        workers or os.cpu_count(), context, keep_freed_memory, max_tasks_per_child=tasks
    ) as pool:
        pending = [pool.submit(function, *job) for job in jobs]
        for number, future in enumerate(as_completed(pending), start=1):
            row = future.result()
            left = (time.monotonic() - started) / number * (len(jobs) - number)
            print(
                f"{number} of {len(jobs)}, {left / 60:.0f} min left: {json.dumps(row)[:160]}",
                file=sys.stderr,
                flush=True,
            )
            yield row
