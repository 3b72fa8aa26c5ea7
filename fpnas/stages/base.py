"""How a stage runs: found or made, tracked, checkpointed, stopped; the same on every engine.

Imports that take seconds (torch, MLflow) happen only when there is work to do, so that a stage
whose result exists ends at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from fpnas.code_version import code_version
from fpnas.errors import StoppedError
from fpnas.memory import keep_freed_memory
from fpnas.stages.config import StageConfig, Strict
from fpnas.stages.events import Events
from fpnas.stages.load import OtherLoad
from fpnas.stages.tracked import tracked
from fpnas.storage import (
    Artifact,
    ArtifactCorruptError,
    ArtifactWriter,
    CheckpointSlot,
    Store,
    stage_key,
)

if TYPE_CHECKING:
    from fpnas.tracking import Run

_LOG = logging.getLogger("fpnas")

ENGINE_PID = "FPNAS_ENGINE_PID"
"""Environment variable: the process that a stage must not outlive."""


class RunInfo(Strict):
    """The pipeline run that a stage belongs to.

    Attributes:
        run_id: Names the run; equal inputs give an equal name.
        space: Name of the search space.
        model: Name of the operating point.
        profile: Name of the profile.
        seed: Seed of the run.
        command: How a person repeats it.
        kind: ``pipeline`` searches; ``baseline`` trains a network that nobody searched.
    """

    run_id: str
    space: str
    model: str
    profile: str
    seed: int
    command: str = ""
    kind: Literal["pipeline", "baseline"] = "pipeline"


@dataclass(frozen=True)
class Stage:
    """A stage of the pipeline.

    Attributes:
        name: Its name, also that of its module in this package.
        kind: What its artifact is.
        inputs: Kind of artifact that it reads, by role.
    """

    name: str
    kind: str
    inputs: Mapping[str, str]

    @property
    def module(self) -> Any:
        """The module with ``Config`` and ``run``."""
        return importlib.import_module(f"fpnas.stages.{self.name}")

    @property
    def config_type(self) -> type[StageConfig]:
        """The type of its configuration."""
        config: type[StageConfig] = self.module.Config
        return config

    def code_version(self) -> str:
        """Digest of the code that its result depends on."""
        return code_version(f"fpnas.stages.{self.name}")

    def run(self, context: StageContext) -> None:
        """Runs the module."""
        keep_freed_memory()
        self.module.run(context)

    def finish_command(self, info: RunInfo) -> str:
        """What a person types to finish a run that came as far as this stage."""
        if info.kind == "baseline":
            return info.command
        words = "register" if self.name == "register" else "run --resume"
        return f"fpnas {words} {info.run_id}"


STAGES: Mapping[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("prepare", "dataset", {}),
        Stage("coarse", "search_state", {"dataset": "dataset"}),
        Stage("fine", "search_state", {"dataset": "dataset", "search_state": "search_state"}),
        Stage("decode", "architecture", {"search_state": "search_state"}),
        Stage("train", "model", {"dataset": "dataset", "architecture": "architecture"}),
        Stage("distill", "model", {"dataset": "dataset", "architecture": "architecture"}),
        Stage(
            "register",
            "report",
            {
                "dataset": "dataset",
                "coarse": "search_state",
                "fine": "search_state",
                "architecture": "architecture",
                "trained": "model",
                "distilled": "model",
            },
        ),
    )
}
"""Of the pipeline that searches, in order."""

BASELINE_STAGES: Mapping[str, Stage] = {
    "prepare": STAGES["prepare"],
    "baseline": Stage("baseline", "model", {"dataset": "dataset"}),
}
"""Of the pipeline that trains a baseline, in order."""

ALL_STAGES: Mapping[str, Stage] = {**STAGES, **BASELINE_STAGES}

MAKERS: Mapping[str, str] = {
    "dataset": "prepare",
    "coarse": "coarse",
    "fine": "fine",
    "architecture": "decode",
    "trained": "train",
    "distilled": "distill",
}
"""The stage that makes each input of ``register``, by its role."""


@dataclass
class StageContext:
    """What a stage works with.

    Attributes:
        stage: Which one.
        config: Its configuration.
        info: The pipeline run.
        store: The storage.
        inputs: The artifacts it reads, by role.
        output: Where its files go.
        checkpoints: Its checkpoints.
        tracking: Its MLflow run.
        events: Progress for the engine.
        stop_requested: Whether a signal asked to stop.
    """

    stage: Stage
    config: Any
    info: RunInfo
    store: Store
    inputs: Mapping[str, Artifact]
    output: ArtifactWriter
    checkpoints: CheckpointSlot
    tracking: Run
    events: Events
    stop_requested: Callable[[], bool]
    _last_save: float = field(default_factory=time.monotonic)
    _save_seconds: float = 0.0

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Reports progress and stops here when asked to."""
        self.events.progress(done, total, message)
        if self.stop_requested():
            raise StoppedError("stopped by a signal; nothing of this stage was kept")

    def after_step(
        self, done: float, total: float, state: Callable[[], Any], message: str = ""
    ) -> None:
        """Reports progress, and writes a checkpoint when one is due or a stop is asked for.

        Checkpoints take at most a twentieth of the time.

        Args:
            done: Steps done.
            total: Steps in all.
            state: Gives the state as a tree of tensors and scalars.
            message: What to show beside the progress.
        """
        self.events.progress(done, total, message)
        stopping = self.stop_requested()
        pause = max(self.config.runtime.checkpoint_seconds, 20 * self._save_seconds)
        if stopping or (done < total and time.monotonic() - self._last_save >= pause):
            self.save(state())
        if stopping:
            raise StoppedError(f"stopped by a signal at {self.checkpoints.uri}")

    def save(self, state: Any) -> None:
        """Writes a checkpoint."""
        from fpnas.state import pack

        started = time.monotonic()
        tensors, structure = pack(state)
        self.checkpoints.save(tensors, structure)
        self._last_save = time.monotonic()
        self._save_seconds = self._last_save - started

    def restore(self) -> Any | None:
        """Returns the state of the last checkpoint, or None."""
        from fpnas.state import unpack

        found = self.checkpoints.load()
        if found is None:
            return None
        _LOG.info("resuming from %s", self.checkpoints.uri)
        self.output.bill["resumed"] = True  # so its seconds are not those of the whole stage
        return unpack(*found)


def execute(
    stage: Stage,
    config: StageConfig,
    info: RunInfo,
    inputs: Mapping[str, Artifact],
    store: Store,
) -> tuple[Artifact, bool]:
    """Runs a stage, or finds what it would make.

    Returns:
        The artifact, and whether it was found.

    Raises:
        FpnasError: Bad input, a fault, or a stop; nothing was committed then.
    """
    events = Events(stage.name)
    own = identity(stage, config, inputs, store)
    key = _key(stage, own, inputs)
    found = find_artifact(store, key)
    if found is not None:
        write_end(events, found, cached=True)
        return found, True
    started = time.monotonic()
    load = OtherLoad(int(os.environ.get(ENGINE_PID, os.getpid())))
    with (
        stop_flag() as stop_requested,
        tracked(stage, config, info, key, stop_requested) as tracking,
    ):
        writer = store.create(
            key,
            kind=stage.kind,
            config=own,
            parents=inputs,
            code_version=stage.code_version(),
        )
        checkpoints = checkpoint_slot(store, key)
        with writer:
            context = StageContext(
                stage,
                config,
                info,
                store,
                inputs,
                writer,
                checkpoints,
                tracking,
                events,
                stop_requested,
            )
            stage.run(context)
            writer.bill["seconds"] = round(time.monotonic() - started, 3)
            writer.bill["other_cores"] = load.cores()
            artifact = writer.commit()
        checkpoints.delete()
        tracking.set_tags({"fpnas.artifact": artifact.uri, "fpnas.digest": artifact.digest})
    write_end(events, artifact, cached=False)
    return artifact, False


def write_end(events: Events, artifact: Artifact, *, cached: bool) -> None:
    """Tells the engine that the stage has its artifact."""
    seconds = artifact.bill.get("seconds")
    events.write("end", status="finished", cached=cached, uri=artifact.uri, seconds=seconds)


def artifact_key(
    stage: Stage, config: StageConfig, inputs: Mapping[str, Artifact], store: Store
) -> str:
    """Where the stage's artifact is or will be."""
    return _key(stage, identity(stage, config, inputs, store), inputs)


def _key(stage: Stage, own: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> str:
    parents = {role: artifact.digest for role, artifact in inputs.items()}
    return stage_key(stage.name, own, parents, stage.code_version())


def find_artifact(store: Store, key: str) -> Artifact | None:
    """The artifact at a key; a corrupt one counts as absent, and is made again."""
    try:
        return store.find(key)
    except ArtifactCorruptError as error:
        _LOG.warning("%s It is made again.", error)
        return None


def checkpoint_slot(store: Store, key: str) -> CheckpointSlot:
    """Where the checkpoints are of the stage whose artifact goes to a key."""
    return CheckpointSlot(store, key.removeprefix("artifacts/"))


def identity(
    stage: Stage, config: StageConfig, inputs: Mapping[str, Artifact], store: Store
) -> dict[str, Any]:
    """What the result depends on besides its parents and its code.

    A stage module may add to its configuration: with a function ``sources(config, store)`` what is
    behind names of things outside, such as a folder of pictures; with ``resolve(config, inputs,
    store)`` what takes the inputs to be known.
    """
    resolve = getattr(stage.module, "resolve", None)
    extra = {
        "sources": sources(stage, config, store),
        "resolved": resolve(config, inputs, store) if resolve else {},
    }
    return {**config.identity(), **{key: value for key, value in extra.items() if value}}


def sources(stage: Stage, config: StageConfig, store: Store) -> dict[str, Any]:
    """What is behind the names in a configuration, which takes no input to be known."""
    found = getattr(stage.module, "sources", None)
    return found(config, store) if found else {}


@contextmanager
def stop_signals_handled(handler: Callable[[], None]) -> Iterator[None]:
    """Calls ``handler`` at SIGTERM and SIGINT inside the block."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        handler()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """Turns a stop signal into a flag while a stage works."""
    stopped = False

    def stop() -> None:
        nonlocal stopped
        stopped = True

    with stop_signals_handled(stop):
        yield lambda: stopped
