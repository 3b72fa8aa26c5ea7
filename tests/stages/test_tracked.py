"""Waiting for MLflow, and what is said when it does not come back."""

import pytest

from fpnas.errors import InputError, ServiceDownError, StoppedError
from fpnas.stages import tracked
from fpnas.stages.tracked import patiently


@pytest.fixture
def clock(monkeypatch):
    """Time passes by sleeping alone."""
    now = [0.0]
    monkeypatch.setattr(tracked.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(tracked.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    return now


def failing(times, error=None):
    left = [times]

    def call():
        left[0] -= 1
        if left[0] >= 0:
            raise error or ConnectionError("refused")
        return "answer"

    return call


def test_a_server_that_comes_back_is_waited_for(clock):
    assert patiently(failing(3), 60, "fpnas register x") == "answer"
    assert clock[0] == pytest.approx(1 + 2 + 4, abs=0.5)


def test_one_that_does_not_come_back_ends_with_what_to_do(clock):
    with pytest.raises(ServiceDownError, match="refused") as caught:
        patiently(failing(10**6), 60, "fpnas register x")
    assert "`fpnas register x` finishes the run" in str(caught.value)
    assert clock[0] <= 60
    assert caught.value.exit_status == 1


def test_what_waiting_does_not_mend_is_raised_at_once(clock):
    deleted = InputError("FPNAS_EXPERIMENT", "a", "was deleted", fix="restore it")
    with pytest.raises(InputError, match="deleted"):
        patiently(failing(1, deleted), 60, "")
    away = InputError("MLFLOW_TRACKING_URI", "a", "cannot be used", fix="start it")
    assert patiently(failing(1, away), 60, "") == "answer"
    assert clock[0] >= 1


def test_a_stop_is_not_waited_out(clock):
    with pytest.raises(StoppedError):
        patiently(failing(10**6), 10**6, "", stop_requested=lambda: clock[0] > 5)
    assert clock[0] < 10
