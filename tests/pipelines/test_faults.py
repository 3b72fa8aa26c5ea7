"""Runs that are stopped, fail or are started twice."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path


def test_sigterm_writes_a_checkpoint_and_tells_that_the_run_can_be_resumed(workplace):
    long = ("--set", "coarse.search.num_steps=100000")
    process = workplace.start(*long)
    workplace.wait_for_progress(process, "coarse", 2)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 75
    assert output == ""
    assert "run the same command again" in errors
    slots = (workplace.folder / "home" / "s3" / "fpnas" / "checkpoints").rglob("*.safetensors")
    assert any(slots)


def test_a_failing_stage_is_reported_with_its_cause_and_its_log(workplace):
    status, message = workplace.fails(
        *workplace.command("--set", "coarse.search.learning_rate=1e30")[3:]
    )
    assert status == 1
    assert "the stage coarse failed" in message
    assert "gradient is" in message or "log-likelihoods are" in message
    assert "coarse.log" in message
    assert "run the same command again" in message


def test_a_teacher_that_does_not_know_the_classes_is_refused_before_the_search(workplace):
    teacher = ("--set", "distill.teacher=torchvision:resnet18")
    status, message = workplace.fails(*workplace.command(*teacher)[3:])
    assert status == 2
    assert "distill.teacher=torchvision:resnet18 does not know these classes: 0, 1" in message
    assert not list((workplace.folder / "home").glob("runs/*/events.jsonl"))


def test_one_process_at_a_time_works_on_a_run_and_its_stage_ends_with_it(workplace):
    long = ("--set", "coarse.search.num_steps=100000")
    process = workplace.start(*long)
    try:
        workplace.wait_for_progress(process, "coarse", 2)
        status, message = workplace.fails(*workplace.command(*long)[3:])
    finally:
        process.kill()
        process.communicate(timeout=60)
    assert status == 2
    assert "is being worked on by another process" in message
    events = next((workplace.folder / "home" / "runs").glob("*/events.jsonl")).read_text()
    starts = [json.loads(line) for line in events.splitlines() if '"start"' in line]
    pid = next(event["pid"] for event in starts if event["stage"] == "coarse")
    deadline = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < deadline, "the stage outlived its engine"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
