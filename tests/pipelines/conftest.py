"""A run that takes seconds: a space of two groups, and a handful of digits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .kfp_stub import Stub

SPACE = """
name: nano
description: Two groups, for tests.
choices: {kernel: [0, 3], activation: [relu, swish], splits: [0, 2]}
stem: {channels: 8, stride: 2}
groups:
  - {expansion: [1.5, 3, 1.5], channels: [8, 16, 8], repeat: 1, stride: 1}
  - {expansion: [1.5, 3, 1.5], channels: [16, 24, 8], repeat: 1, stride: 2}
head: {channels: 32}
models:
  n0: {input_size: 16, target_macs: 120_000}
"""

PROFILE = """
prepare: {max_images_per_class: 20}
coarse: {batch_size: 16, search: {num_steps: 40, warmup_steps: 10}}
fine: {batch_size: 16, search: {num_steps: 80}}
recipe: {epochs: 20, batch_size: 16}
distill: {teacher_epochs: 2}
baseline: {num_candidates: 3, candidate_epochs: 2}
"""


class Workplace:
    """A folder of its own, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "nano.yaml").write_text(SPACE)
        (folder / "quick.yaml").write_text(PROFILE)
        hidden = ("S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "AWS_", "FPNAS_")
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
        self.environ |= {"FPNAS_HOME": str(folder / "home")}

    def command(self, *options: str) -> list[str]:
        words = ["run", "--space", "nano.yaml", "--profile", "quick.yaml", "--json", *options]
        return [sys.executable, "-m", "fpnas.cli", *words]

    def start(self, *options: str) -> subprocess.Popen[str]:
        return self._start(self.command(*options))

    def start_baseline(self, name: str, *options: str) -> subprocess.Popen[str]:
        _, *rest = self.command(*options)[3:]
        return self._start([sys.executable, "-m", "fpnas.cli", "baseline", name, *rest])

    def baseline(self, name: str, *options: str) -> dict:
        return self._result(self.start_baseline(name, *options))

    def _start(self, command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *options: str) -> dict:
        return self._result(self.start(*options))

    def _result(self, process: subprocess.Popen[str]) -> dict:
        output, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
        return json.loads(output)

    def _command_line(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "fpnas.cli", *words],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def call(self, *words: str) -> str:
        """Any command that must work: what it prints."""
        done = self._command_line(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_for_progress(self, process: subprocess.Popen[str], stage: str, done: int) -> None:
        """Waits until a stage has made some steps, and a checkpoint after each of them."""
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read()
            for path in (self.folder / "home" / "runs").glob("*/events.jsonl"):
                for line in path.read_text().splitlines():
                    event = json.loads(line)
                    begun = event["stage"] == stage and event["event"] == "progress"
                    if begun and done <= event["done"] < event["total"]:
                        return
            time.sleep(0.02)
        raise AssertionError(f"{stage} made no progress")

    def fails(self, *words: str) -> tuple[int, str]:
        """Any command that must fail: its status and its message."""
        done = self._command_line(*words)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.returncode, " ".join(done.stderr.split())


@pytest.fixture
def stub() -> Iterator[Stub]:
    """KFP's API."""
    stub = Stub()
    yield stub
    stub.close()


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, dict]:
    """A run from beginning to end, shared by the tests that only read it."""
    workplace = Workplace(tmp_path_factory.mktemp("finished"))
    return workplace, workplace.run()
