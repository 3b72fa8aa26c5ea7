"""What becomes of the stages of a run, read from their events; the same for every engine here.

KFP's local runner keeps no log, says nothing about causes and shows no progress. Every stage
writes a log file and events of its own (see :mod:`fpnas.stages.events`); this module follows the
events, shows them, and turns them into the outcome of every stage.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fpnas.errors import FpnasError
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


class Follower:
    """Reads events in a thread while the pipeline runs.

    Args:
        path: The file that stages append to.
        outcomes: Of the stages by name, kept up to date.
        display: Shows the events.
    """

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


def _tail(path: Path) -> str:
    if not path.is_file():
        return "  (empty)"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    return "\n".join(f"  {line}" for line in lines)
