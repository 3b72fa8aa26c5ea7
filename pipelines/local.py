"""The local engine: the pipeline run by KFP's SubprocessRunner, and what that runner lacks.

KFP's local runner keeps no log, says nothing about causes and shows no progress. Here every stage
writes a log file and events of its own (see :mod:`fpnas.stages.events`); this module follows the
events, shows them, and turns them into the outcome of every stage.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from fpnas.errors import FpnasError, StoppedError
from fpnas.stages.base import ENGINE_PID, STAGES, Stage, stop_signals_handled
from fpnas.stages.entry import LOG_DIRECTORY
from fpnas.stages.events import STATUS_FILE
from pipelines.display import Display

_TAIL_LINES = 15


@dataclass
class Outcome:
    """What became of a stage.

    Attributes:
        name: The stage.
        status: ``waiting``, ``running``, ``finished`` or ``failed``.
        cached: Whether its artifact was found.
        artifact: Address of its artifact.
        seconds: What making the artifact took; when it was found, what it had taken.
        elapsed_seconds: What it took in this run.
        pid: Its process.
        exit_status: Of a failed stage.
        cause: Of the failure.
    """

    name: str
    status: str = "waiting"
    cached: bool = False
    artifact: str | None = None
    seconds: float | None = None
    elapsed_seconds: float = 0.0
    pid: int = 0
    exit_status: int = 0
    cause: str = ""
    _started: float = 0.0

    def update(self, event: Mapping[str, Any]) -> None:
        """Takes an event of the stage."""
        if event["event"] == "start":
            self.status, self.pid, self._started = "running", event["pid"], event["time"]
        elif event["event"] == "end":
            self.status = event["status"]
            self.elapsed_seconds = event["time"] - self._started
            self.cached = event.get("cached", False)
            self.artifact, self.seconds = event.get("uri"), event.get("seconds")
            self.exit_status, self.cause = event.get("exit_status", 0), event.get("cause", "")


class StageFailedError(FpnasError):
    """A stage failed; the message has the cause, the end of its log and what to do."""

    def __init__(self, outcome: Outcome, log: Path) -> None:
        self.outcome = outcome
        cause = outcome.cause or "its process ended without a word (killed, or out of memory)"
        message = f"the stage {outcome.name} failed: {cause}\nIts log is {log}"
        if outcome.exit_status != 2:
            message += f", which ends:\n{_tail(log)}"
        advice = "run the same command again: finished stages are kept"
        super().__init__(f"{message}\nFix the cause and {advice}, and this one resumes.")
        self.exit_status = outcome.exit_status or 1  # type: ignore[misc]


def run_local(
    parameters: Mapping[str, str],
    directory: Path,
    display: Display,
    pipeline: str = "fpnas_pipeline",
    stages: Mapping[str, Stage] = STAGES,
) -> dict[str, Outcome]:
    """Runs a pipeline on this machine.

    Args:
        parameters: Of the pipeline.
        directory: The run's folder; gets ``logs/``, ``events.jsonl`` and KFP's own files.
        display: Shows the events.
        pipeline: Its name in :mod:`pipelines.definition`.
        stages: Its stages, in order.

    Returns:
        The outcome of every stage.

    Raises:
        StageFailedError: A stage failed.
        StoppedError: A signal asked to stop; stages that can have written a checkpoint.
    """
    outcomes = {name: Outcome(name) for name in stages}
    logs = directory / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    events = directory / "events.jsonl"
    events.unlink(missing_ok=True)
    events.touch()
    follower = _Follower(events, outcomes, display)
    variables: dict[str, object] = {
        STATUS_FILE: events,
        LOG_DIRECTORY: logs,
        ENGINE_PID: os.getpid(),
        # Threads that spin while they wait make two processes slow each other down twentyfold.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }
    failure: Exception | None = None
    with (
        _environment({name: str(value) for name, value in variables.items()}),
        _forwarded_signals(outcomes) as stopped,
        follower,
    ):
        try:
            with _output_to(logs / "engine.log"):
                _run_kfp(pipeline, parameters, directory / "kfp")
        except Exception as error:  # KFP raises RuntimeError, whatever happened
            failure = error
    if failure is None:
        return outcomes
    failed = next((o for o in outcomes.values() if o.status in ("failed", "running")), None)
    if failed is None:
        raise FpnasError(f"{failure}\nThe engine's log is {logs / 'engine.log'}") from failure
    if stopped() or failed.exit_status == StoppedError.exit_status:
        raise StoppedError(
            f"stopped in the stage {failed.name}; run the same command again to go on"
        ) from failure
    raise StageFailedError(failed, logs / f"{failed.name}.log") from failure


def _run_kfp(pipeline: str, parameters: Mapping[str, str], root: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of KFP and its dependencies
        from kfp import local

        from pipelines import definition

        local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root))
        getattr(definition, pipeline)(**parameters)


class _Follower:
    """Reads events in a thread while the pipeline runs."""

    def __init__(self, path: Path, outcomes: dict[str, Outcome], display: Display) -> None:
        self._path, self._outcomes, self._display = path, outcomes, display
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="events", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        with self._path.open(encoding="utf-8") as file, self._display:
            rest = ""
            while True:
                ended = self._done.is_set()
                *lines, rest = (rest + file.read()).split("\n")
                for line in lines:
                    event = json.loads(line)
                    self._outcomes[event["stage"]].update(event)
                    self._display.show(event)
                if ended:
                    return
                self._done.wait(0.1)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
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
def _forwarded_signals(outcomes: Mapping[str, Outcome]) -> Iterator[Callable[[], bool]]:
    """Passes stop signals on to the running stage, which writes a checkpoint and ends."""
    stopped = False

    def forward() -> None:
        nonlocal stopped
        stopped = True
        for outcome in outcomes.values():
            if outcome.status == "running":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(outcome.pid, signal.SIGTERM)

    with stop_signals_handled(forward):
        yield lambda: stopped


def _tail(path: Path) -> str:
    if not path.is_file():
        return "  (empty)"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join(f"  {line}" for line in lines)
