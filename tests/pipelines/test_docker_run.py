"""Whole runs with every stage in a container: equal to local ones, stopped, and killed."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from fpnas.errors import InputError
from fpnas.stages.base import STAGES
from pipelines.container_engine import connected, find_engine, stage_images
from pipelines.docker import FOLDER_LABEL

from .conftest import Workplace
from .test_run import manifests

DOCKER = ("--engine", "docker")
LONG = (*DOCKER, "--set", "coarse.search.num_steps=100000")


@pytest.fixture(scope="module", autouse=True)
def client():
    try:
        with connected(find_engine()) as found:
            stage_images(found, "fpnas_pipeline")
            yield found
    except InputError as error:
        pytest.skip(f"needs a container engine and images of this code: {error}")


@pytest.fixture
def workplace(tmp_path):
    return place(tmp_path)


def place(folder):
    made = Workplace(folder)
    images = ("FPNAS_IMAGE_PREFIX", "FPNAS_IMAGES")
    made.environ |= {name: os.environ[name] for name in images if name in os.environ}
    return made


@pytest.fixture(scope="module")
def contained(tmp_path_factory):
    """A run in containers from beginning to end."""
    workplace = place(tmp_path_factory.mktemp("contained"))
    return workplace, workplace.run(*DOCKER)


def running(client, workplace):
    """The containers of a run that are there."""
    (folder,) = (workplace.folder / "home" / "runs").iterdir()
    return client.containers.list(all=True, filters={"label": f"{FOLDER_LABEL}={folder}"})


def wait_until_gone(client, workplace):
    deadline = time.monotonic() + 60
    while any(container.status == "running" for container in running(client, workplace)):
        assert time.monotonic() < deadline, "the container outlived its engine"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_run_in_containers_makes_the_artifacts_of_a_local_run(finished, contained):
    assert contained[1]["engine"] == "docker"
    local, inside = (manifests(result, workplace) for workplace, result in (finished, contained))
    for name in STAGES:
        if name != "register":  # the report tells how long everything took
            assert inside[name]["files"] == local[name]["files"], name
            assert inside[name]["digest"] == local[name]["digest"], name
    summaries = [m["register"]["files"]["summary.json"] for m in (local, inside)]
    assert summaries[0] == summaries[1]


@pytest.mark.slow
def test_the_keys_are_in_no_file_that_the_run_leaves(contained):
    workplace, _ = contained
    home = workplace.folder / "home"
    keys = json.loads((home / "credentials.json").read_text()).values()
    files = [path for part in ("runs", "logs", "mlflow.db") for path in walk(home / part)]
    assert len(files) > len(STAGES)
    for path in files:
        contents = path.read_bytes()
        assert not any(key.encode() in contents for key in keys), path


def walk(path):
    return [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]


@pytest.mark.slow
def test_nothing_is_left_of_a_run_but_its_results(client, contained):
    workplace, result = contained
    assert running(client, workplace) == []
    names = {path.name for path in Path(result["report"]).parent.iterdir()}
    assert not {"scratch", "engine.pipe"} & names


@pytest.mark.slow
def test_the_same_command_again_finds_everything_with_either_engine(contained):
    workplace, _ = contained
    for options in (DOCKER, ()):
        assert all(stage["cached"] for stage in workplace.run(*options)["stages"])


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_in_the_container(client, workplace):
    process = workplace.start(*LONG)
    workplace.wait_for_progress(process, "coarse", 2)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert output == ""
    assert "stopped in the stage coarse" in errors
    slots = (workplace.folder / "home" / "s3" / "fpnas" / "checkpoints").rglob("*.safetensors")
    assert any(slots)
    assert running(client, workplace) == []


@pytest.mark.slow
def test_a_container_that_is_killed_is_a_failure_with_its_cause(client, workplace):
    process = workplace.start(*LONG)
    workplace.wait_for_progress(process, "coarse", 2)
    (container,) = running(client, workplace)
    container.kill()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the stage coarse failed: its container was killed" in errors
    assert "FAILED" not in errors  # and no stage was started after it


@pytest.mark.slow
def test_killed_in_every_stage_it_ends_like_one_that_was_not(client, contained, workplace):
    every_step = [
        word
        for stage in ("coarse", "fine", "train", "distill")
        for word in ("--set", f"{stage}.runtime.checkpoint_seconds=0")
    ]
    made = set()
    for stage in STAGES:
        process = workplace.start(*DOCKER, *every_step)
        try:
            wait_for_start(workplace, process, stage)
        finally:
            process.kill()
            process.communicate(timeout=60)
        wait_until_gone(client, workplace)
        ends = [event for event in taken_events(workplace) if event["event"] == "end"]
        assert not [end for end in ends if end["stage"] in made and not end["cached"]]
        made |= {end["stage"] for end in ends if end["status"] == "finished"}
    assert made == set(STAGES) - {"register"}
    resumed = workplace.run(*DOCKER, *every_step)
    assert running(client, workplace) == []
    # What had finished before the last kill was found, the stage that was killed was made.
    assert [stage["cached"] for stage in resumed["stages"]] == [True] * 6 + [False]
    before, after = manifests(contained[1], contained[0]), manifests(resumed, workplace)
    for name in STAGES:
        if name != "register":
            assert after[name]["digest"] == before[name]["digest"], name


def taken_events(workplace):
    """The events of a run that has ended; the next one that is waited for is of the next."""
    (path,) = (workplace.folder / "home" / "runs").glob("*/events.jsonl")
    lines = path.read_text().splitlines()
    path.unlink()
    return [json.loads(line) for line in lines]


def wait_for_start(workplace, process, stage):
    """Waits until a stage works."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        for path in (workplace.folder / "home" / "runs").glob("*/events.jsonl"):
            for line in path.read_text().splitlines():
                event = json.loads(line)
                if event["stage"] == stage and event["event"] == "start":
                    return
        time.sleep(0.02)
    raise AssertionError(f"{stage} was not started")
