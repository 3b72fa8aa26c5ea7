"""A stage's process stops when its engine says so, and ends when its engine is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from fpnas.stages.entry import ENGINE_PIPE
from pipelines.lifeline import Lifeline

# A stage that waits: with a handler, as while it works, or without, as before.
STAGE = """
import signal, sys, time
from fpnas.stages.entry import _obey_engine
if "handled" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(33))
_obey_engine()
print("ready", flush=True)
time.sleep(120)
"""


def start(path, *words):
    process = subprocess.Popen(
        [sys.executable, "-c", STAGE, *words],
        env={**os.environ, ENGINE_PIPE: str(path)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize(("words", "status"), [(("handled",), 33), ((), 75)])
def test_a_byte_stops_the_stage_as_sigterm_does(tmp_path, words, status):
    with Lifeline(tmp_path / "pipe") as lifeline, start(lifeline.path, *words) as stage:
        lifeline.stop()
        assert stage.wait(60) == status


def test_a_byte_that_comes_between_two_stages_is_for_the_next(tmp_path):
    with Lifeline(tmp_path / "pipe") as lifeline:
        lifeline.stop()
        process = subprocess.run(
            [sys.executable, "-c", STAGE],
            env={**os.environ, ENGINE_PIPE: str(lifeline.path)},
            timeout=60,
            check=False,
        )
    assert process.returncode == 75


def test_the_stage_ends_with_an_engine_that_is_killed_also_when_a_new_one_starts(tmp_path):
    program = """
import sys, time
from pathlib import Path
from pipelines.lifeline import Lifeline
with Lifeline(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(120)
"""
    path = tmp_path / "pipe"
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as engine:
        assert engine.stdout.readline() == b"ready\n"
        with start(path, "handled") as stage:
            # The new engine's pipe is another one, so the old stage does not hold on to it.
            stage.send_signal(signal.SIGSTOP)
            engine.kill()
            engine.wait()
            with Lifeline(path):
                stage.send_signal(signal.SIGCONT)
                assert stage.wait(60) == 1


def test_a_stage_that_comes_after_its_engine_has_gone_ends(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    process = subprocess.run(
        [sys.executable, "-c", STAGE],
        env={**os.environ, ENGINE_PIPE: str(tmp_path / "pipe")},
        timeout=60,
        check=False,
    )
    assert process.returncode == 1


def test_the_pipe_is_gone_with_the_engine_and_is_its_owners_alone(tmp_path):
    with Lifeline(tmp_path / "pipe") as lifeline:
        assert lifeline.path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == []
