"""One status line a stage, with progress and time left, on a terminal or in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

_LOG_SECONDS = 15.0


class Display:
    """Shows the events of stages.

    On a terminal one line a stage is redrawn; elsewhere a line is printed when a stage starts or
    ends, and every 15 seconds while it runs.

    Args:
        console: Where to.
        stages: Names of all stages, in order.
    """

    def __init__(self, console: Console, stages: tuple[str, ...]) -> None:
        self._console, self._stages = console, stages
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, float] = {}
        self._first: dict[str, tuple[float, float, float]] = {}
        self._done: dict[str, float] = {}
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.fields[mark]} {task.description:<9}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[note]}", markup=False),
                console=self._console,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            for name in self._stages:
                self._tasks[name] = self._progress.add_task(name, total=1, mark=" ", note="")
            self._progress.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, event: Mapping[str, Any]) -> None:
        """Shows an event."""
        name = event["stage"]
        if event["event"] == "start":
            self._started[name] = event["time"]
            self._first.pop(name, None)
            self._line(name, "starting", mark=">", always=True)
        elif event["event"] == "progress":
            left = self._time_left(name, event)
            note = f"{event['message']}{left}"
            self._line(name, note, mark=">", done=event["done"], total=event["total"])
        elif event["status"] == "finished":
            seconds = event["time"] - self._started.get(name, event["time"])
            note = "found, nothing to do" if event["cached"] else f"done in {_clock(seconds)}"
            self._line(name, note, mark="=", done=1, total=1, always=True)
        else:
            self._line(name, f"FAILED: {event['cause'].splitlines()[0]}", mark="!", always=True)

    def _time_left(self, name: str, event: Mapping[str, Any]) -> str:
        """Extrapolates from where the stage went on, which after a resume is not the beginning."""
        now, done, total = event["time"], event["done"], event["total"]
        first = self._first.get(name)
        if first is None or total != first[2] or done < self._done[name]:
            first = self._first[name] = (now, done, total)  # another part of the stage
        self._done[name] = done
        if done <= first[1] or now - first[0] < 1:
            return ""
        left = (now - first[0]) / (done - first[1]) * (total - done)
        return f", {_clock(left)} left"

    def _line(
        self,
        name: str,
        note: str,
        *,
        mark: str,
        done: float | None = None,
        total: float | None = None,
        always: bool = False,
    ) -> None:
        if self._progress is not None:
            self._progress.update(
                self._tasks[name], completed=done, total=total, mark=mark, note=note
            )
            return
        now = time.monotonic()
        if always or now - self._last_line >= _LOG_SECONDS:
            self._last_line = now
            share = f"{done / total:4.0%} " if done is not None and total else ""
            self._console.print(
                f"{name:<9} {share}{note}", highlight=False, markup=False, soft_wrap=True
            )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
