"""The pipeline run on this machine by KFP's local runners, and what those runners lack.

An engine says how a stage's process is started. What passes between the two is the same for all:
the stage writes events and a log into the run's folder, and holds on to the engine's pipe.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from fpnas.errors import FpnasError, InputError, StoppedError, closest
from fpnas.stages.base import RunInfo, Stage, stop_signals_handled
from fpnas.stages.config import StageConfig
from fpnas.stages.entry import ENGINE_PIPE, LOG_DIRECTORY
from fpnas.stages.events import STATUS_FILE
from pipelines.display import Display
from pipelines.kfp_runs import KFP
from pipelines.lifeline import Lifeline
from pipelines.outcomes import Follower, Outcome, StageFailedError
from pipelines.resources import ResourceTable

if TYPE_CHECKING:
    from pipelines.definition import Place

ENGINES = ("local", "docker", KFP)
"""Where a run can be started; Argo Workflows is given what ``fpnas compile`` writes."""


class LocalPlan(Protocol):
    """What a pipeline run is made of; see :class:`pipelines.plan.Plan`."""

    @property
    def info(self) -> RunInfo:
        """Names the run."""

    @property
    def configs(self) -> Mapping[str, StageConfig]:
        """The configuration of every stage."""

    @property
    def resources(self) -> ResourceTable:
        """What every stage gets."""

    @property
    def pipeline(self) -> str:
        """The pipeline's name in :mod:`pipelines.definition`."""

    def parameters(self) -> dict[str, str]:
        """The parameters of the pipeline."""

    def to_json(self) -> dict[str, Any]:
        """What is kept in the run's folder."""


def _nowhere(_name: str, _task: Any) -> None:
    """A task needs no place."""


@dataclass(frozen=True)
class Session:
    """What carries out the tasks of one run.

    Attributes:
        runner: One of ``kfp.local``.
        place: Gives a task what it needs of the engine.
        last_words: What is known of the end of a stage's process, or nothing; of use when the
            stage could not tell.
    """

    runner: Any
    place: Place = _nowhere
    last_words: Callable[[str], str] = lambda _stage: ""


class Engine(Protocol):
    """How the stages of a run are carried out on this machine."""

    @property
    def name(self) -> str:
        """What the user knows it by."""

    def check(self, plan: LocalPlan) -> None:
        """Raises InputError, before any work, when the engine cannot carry a plan out."""

    def session(
        self, plan: LocalPlan, directory: Path, variables: Mapping[str, str]
    ) -> AbstractContextManager[Session]:
        """What carries the tasks out, while the block runs.

        Args:
            plan: The run.
            directory: Its folder.
            variables: Of the environment, for stages.
        """


def engine_named(name: str) -> Engine:
    """The engine of a name, on this machine.

    Raises:
        InputError: There is none.
    """
    if name == "local":
        from pipelines.local import LocalEngine

        return LocalEngine()
    if name == "docker":
        from pipelines.docker import DockerEngine

        return DockerEngine()
    if name == KFP:
        problem = "is not an engine of this machine"
        raise InputError("ENGINE", name, problem, legal="local, docker", fix="fpnas submit")
    raise unknown_engine(name)


def unknown_engine(name: str) -> InputError:
    """The error for a name that is not in :data:`ENGINES`."""
    fix = "fpnas compile --engine argo" if name == "argo" else closest(name, ENGINES)
    return InputError("ENGINE", name, "is not available", legal=", ".join(ENGINES), fix=fix)


def run_stages(
    engine: Engine,
    plan: LocalPlan,
    stages: Mapping[str, Stage],
    directory: Path,
    display: Display,
) -> dict[str, Outcome]:
    """Runs a pipeline on this machine.

    Args:
        engine: Carries out the stages.
        plan: The run.
        stages: Of its pipeline, in order.
        directory: The run's folder; gets ``logs/``, ``events.jsonl`` and KFP's own files.
        display: Shows the events.

    Returns:
        The outcome of every stage.

    Raises:
        InputError: What the engine was given cannot be used; no stage was started.
        StageFailedError: A stage failed.
        StoppedError: A signal asked to stop; stages that can have written a checkpoint.
    """
    outcomes = {name: Outcome(name) for name in stages}
    logs = directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    events = directory / "events.jsonl"
    events.unlink(missing_ok=True)
    events.touch()
    failure: Exception | None = None
    words: dict[str, str] = {}
    with (
        Lifeline(directory / "engine.pipe") as lifeline,
        _forwarded_signals(lifeline) as stopped,
        Follower(events, outcomes, display),
    ):
        variables = {
            STATUS_FILE: str(events),
            LOG_DIRECTORY: str(logs),
            ENGINE_PIPE: str(lifeline.path),
            # Threads that spin while they wait make two processes slow each other down twentyfold.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        }
        try:
            with (
                _output_to(logs / "engine.log"),
                engine.session(plan, directory, variables) as session,
            ):
                try:
                    _run_kfp(plan, session, directory / "kfp")
                finally:
                    words = {name: session.last_words(name) for name in stages}
        except FpnasError:
            raise
        except Exception as error:  # KFP raises RuntimeError, whatever happened
            failure = error
    if stopped() or any(o.exit_status == StoppedError.exit_status for o in outcomes.values()):
        where = next((o.name for o in outcomes.values() if o.status != "finished"), "the last")
        raise StoppedError(f"stopped in the stage {where}; run the same command again to go on")
    for outcome in outcomes.values():
        begun = outcome.status in ("failed", "running")
        outcome.cause = outcome.cause or words.get(outcome.name, "")
        if begun or (outcome.status != "finished" and outcome.cause):
            # One that did not come as far as its own log has spoken to the engine.
            log = logs / f"{outcome.name if begun else 'engine'}.log"
            raise StageFailedError(outcome, log) from failure
    if failure is not None:
        raise FpnasError(f"{failure}\nThe engine's log is {logs / 'engine.log'}") from failure
    return outcomes


def _run_kfp(plan: LocalPlan, session: Session, root: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of KFP and its dependencies
        from kfp import local

        from pipelines.definition import BUILDERS

        pipeline = BUILDERS[plan.pipeline](session.place)
        local.init(runner=session.runner, pipeline_root=str(root))
        pipeline(**plan.parameters())


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables of this process's environment, while the block runs."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Sends what this process and its children print to a file; KFP prints every input."""
    streams: tuple[TextIO, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    saved = [os.dup(descriptor) for descriptor in (1, 2)]
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
        for descriptor, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, descriptor)
            os.close(copy)


@contextlib.contextmanager
def _forwarded_signals(lifeline: Lifeline) -> Iterator[Callable[[], bool]]:
    """Passes stop signals on to the running stage, which writes a checkpoint and ends."""
    stopped = False

    def forward() -> None:
        nonlocal stopped
        stopped = True
        lifeline.stop()

    with stop_signals_handled(forward):
        yield lambda: stopped
