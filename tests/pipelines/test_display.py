"""One line a stage, with progress and time left."""

from __future__ import annotations

import io

from rich.console import Console

from pipelines.display import Display
from pipelines.outcomes import Outcome


def shown(*events: dict, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100)
    with Display(console, ("coarse", "fine")) as display:
        for event in events:
            display.show({"stage": "coarse", **event})
    return file.getvalue()


START = {"event": "start", "time": 100.0, "pid": 1}
FOUND = {"event": "end", "time": 101.0, "status": "finished", "cached": True}
DONE = {"event": "end", "time": 175.0, "status": "finished", "cached": False}
FAILED = {"event": "end", "time": 175.0, "status": "failed", "cause": "no [room]\nsecond line"}


def progress(time: float, done: int) -> dict:
    return {"event": "progress", "time": time, "done": done, "total": 100, "message": "K = 7"}


def test_a_log_has_a_line_at_start_and_end():
    assert shown(START, DONE).splitlines() == [
        "coarse    starting",
        "coarse    100% done in 1 min 15 s",
    ]
    assert "found, nothing to do" in shown(START, FOUND)


def test_a_failure_shows_the_first_line_of_its_cause_as_it_is():
    assert "FAILED: no [room]" in shown(START, FAILED)
    assert "second line" not in shown(START, FAILED)


def test_a_terminal_shows_the_time_left_from_the_speed_since_the_stage_went_on():
    # It resumed at 50; ten more took 20 seconds, so forty more take 80.
    text = shown(START, progress(110, 50), progress(130, 60), terminal=True)
    assert "K = 7, 1 min 20 s left" in text
    assert "fine" in text


def test_the_time_left_is_of_the_part_that_runs():
    events = [progress(110, 0), progress(120, 90), progress(121, 0), progress(131, 50)]
    assert "K = 7, 10 s left" in shown(START, *events, terminal=True)


def test_an_outcome_takes_the_events_of_its_stage():
    outcome = Outcome("coarse")
    outcome.update({**START, "stage": "coarse"})
    assert (outcome.status, outcome.pid) == ("running", 1)
    outcome.update({**progress(110, 50)})
    assert outcome.status == "running"
    outcome.update({**FAILED, "exit_status": 2})
    assert (outcome.status, outcome.exit_status, outcome.elapsed_seconds) == ("failed", 2, 75.0)
