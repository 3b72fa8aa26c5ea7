"""What a report is made of: plain data, without a connection to anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fpnas.architecture import Architecture
from fpnas.report.search_figures import SearchPhase
from fpnas.space import SearchSpace


@dataclass(frozen=True)
class Snapshots:
    """The probabilities of a search over time.

    Attributes:
        steps: Steps on one continuous axis over both phases, non-decreasing, shape (S,).
        probabilities: Marginals, shape (S, G, M, C).
        switch_step: Where the fine search starts; None without one.
    """

    steps: NDArray[np.int64]
    probabilities: NDArray[np.floating[Any]]
    switch_step: int | None


@dataclass(frozen=True)
class StageRecord:
    """One stage of the run.

    Attributes:
        name: Its name, such as ``coarse``.
        status: How it ended, such as ``succeeded``.
        seconds: What it took when it was computed, this time or before; None when unknown.
        cached: Whether an earlier run's output was found and taken.
        num_steps: Search steps or training epochs; None for stages that have none.
        num_samples: Architectures drawn; None for stages that draw none.
        artifact: Where its output is; None without one.
        sha256: Digest of the output's manifest; None when unknown.
        log: Where its log is; None without one.
    """

    name: str
    status: str
    seconds: float | None = None
    cached: bool = False
    num_steps: int | None = None
    num_samples: int | None = None
    artifact: str | None = None
    sha256: str | None = None
    log: str | None = None


@dataclass(frozen=True)
class DatasetSummary:
    """What was searched and trained on.

    Attributes:
        source: Where the pictures came from, as the user gave it.
        counts: Pictures, one row a class (the index holds the names), one column a split.
        quarantined: Pictures that cannot be used: columns ``name`` and ``reason``.
        converted: Converted pictures by what they were, such as ``grey`` or ``cmyk``.
    """

    source: str
    counts: pd.DataFrame
    quarantined: pd.DataFrame
    converted: Mapping[str, int]


@dataclass(frozen=True)
class TrainingSummary:
    """A trained model, measured on the validation split.

    Attributes:
        top1: Share of pictures classified correctly, 0 to 1.
        top5: Share whose class is among the five most likely ones; None when not measured.
        loss: Cross-entropy in nats a picture; None when not measured.
        history: One row an epoch with
            :data:`fpnas.report.model_figures.TRAINING_COLUMNS`; None when not kept.
        calibration_error: Expected calibration error, 0 to 1; None when not measured.
        confusion: Pictures by their class (rows) and by the class ranked first (columns), both
            named; None when not kept.
    """

    top1: float
    top5: float | None = None
    loss: float | None = None
    history: pd.DataFrame | None = None
    calibration_error: float | None = None
    confusion: pd.DataFrame | None = None


@dataclass(frozen=True)
class Teacher:
    """What a model was distilled from.

    Attributes:
        name: What to call it.
        top1: Its own accuracy on the same validation split, 0 to 1; None when not measured.
    """

    name: str
    top1: float | None = None


@dataclass(frozen=True)
class RegisteredModel:
    """An entry of the model registry.

    Attributes:
        name: Name of the registered model.
        version: Its version.
        aliases: Names that point to this version, such as ``champion``.
    """

    name: str
    version: str
    aliases: Sequence[str] = ()


@dataclass(frozen=True)
class ReportData:
    """Everything that :func:`fpnas.report.html.render_report` shows, and nothing that it does not.

    It ends up in a file that is passed on: what must stay secret must not be in here. A part that
    is None is replaced by one sentence that says so.

    Attributes:
        run_id: The run's identifier.
        space: The search space at its operating point, the budget included.
        num_classes: Classes of the classifier, which its cost depends on.
        profile: Name of the profile.
        strategy: Name of the search strategy.
        seed: Seed of the run.
        command: The command line that repeats the run.
        code_version: Version of the code, such as a commit.
        stages: The stages, in order. Search bill, total time and the places of artifacts are
            taken from these.
        architecture: The decoded architecture; its MACs and parameters are computed here.
        phases: The coarse and the fine search, those that have run.
        snapshots: Their probabilities over time.
        dataset: What was prepared.
        train: The model trained from scratch.
        distill: The same architecture, distilled.
        teacher: What it was distilled from.
        registered_model: The entry in the registry.
        speed: Of the better model, see :func:`fpnas.training.speed.measure_everywhere`.
        exported: Its files, see :class:`fpnas.training.export.ExportedFile`, as mappings.
        links: Addresses by what they show, such as MLflow pages. Those of http and https become
            links, others are shown as text.
        alarms: What is suspicious about the search, a sentence each.
        config: Settings that the profile leaves to the user, or that were changed, by key.
        next_steps: Sentences to add to those of :func:`fpnas.report.advice.next_steps`.
    """

    run_id: str
    space: SearchSpace
    num_classes: int
    profile: str
    strategy: str
    seed: int
    command: str
    code_version: str
    stages: Sequence[StageRecord] = ()
    architecture: Architecture | None = None
    phases: Sequence[SearchPhase] = ()
    snapshots: Snapshots | None = None
    dataset: DatasetSummary | None = None
    train: TrainingSummary | None = None
    distill: TrainingSummary | None = None
    teacher: Teacher | None = None
    registered_model: RegisteredModel | None = None
    speed: Mapping[str, Any] | None = None
    exported: Sequence[Mapping[str, Any]] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    alarms: Sequence[str] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    next_steps: Sequence[str] = ()

    @property
    def total_seconds(self) -> float | None:
        """Time of all stages whose time is known; None when none is."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if known else None

    @property
    def num_samples(self) -> int | None:
        """Architectures drawn in the whole search; None when unknown."""
        known = [stage.num_samples for stage in self.stages if stage.num_samples is not None]
        if known:
            return sum(known)
        drawn = [int(phase.history["num_samples"].sum()) for phase in self.phases]
        return sum(drawn) if drawn else None

    @property
    def better(self) -> TrainingSummary | None:
        """The more accurate model; the undistilled one when they are equal."""
        models = [model for model in (self.train, self.distill) if model is not None]
        return max(models, key=lambda model: model.top1, default=None)

    @property
    def distillation_gain(self) -> float | None:
        """Top-1 of the distilled minus that of the undistilled model."""
        if self.train is None or self.distill is None:
            return None
        return self.distill.top1 - self.train.top1
