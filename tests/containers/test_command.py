"""The command that builds images, with a stand-in for the container engine."""

import csv
import subprocess

import pytest
from typer.testing import CliRunner

from containers.__main__ import app
from containers.build import TARGETS, tagged
from fpnas.errors import InputError

from .conftest import DIGEST, ROOT


def invoke(*words):
    return CliRunner().invoke(app, words, catch_exceptions=False)


def test_all_images_are_built_and_their_sizes_printed(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = invoke("build", "--tool", "podman", "--base", "base:1")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(TARGETS)
    # The stand-in gives every image the same two layers, so only the first has any of its own.
    assert [line.split()[1:4] for line in lines[1:3]] == [["5", "2", "2"], ["5", "2", "0"]]
    assert all(tagged(target) in done.stdout for target in TARGETS)
    assert "prepare: STEP 1/1" in done.stderr
    builds = [words for words in engine() if words[0] == "build"]
    assert all("BASE=base:1" in words for words in builds)
    assert not any(word.startswith("CACHE_KEY") for words in builds for word in words)
    assert sorted(p.name for p in (tmp_path / "build" / "images").iterdir()) == sorted(
        f"{target}.log" for target in TARGETS
    )


def test_what_was_built_is_recorded_with_its_circumstances(engine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "images.csv"
    invoke("build", "train", "prepare", "--no-cache", "--record", str(record))
    with record.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["megabytes"], row["layers"]) for row in rows] == [
        ("prepare", "5", "2"),
        ("train", "5", "2"),
    ]
    assert {row["tool"] for row in rows} == {"podman"}
    keys = [w for words in engine() for w in words if w.startswith("CACHE_KEY")]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert all(row["commit"] and row["machine"] and row["base"] for row in rows)


def test_digests_are_written_when_all_images_are_pushed(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("FPNAS_IMAGE_PREFIX", "r.example/team/fpnas")
    output = tmp_path / "build" / "images.txt"
    assert invoke("push", "--output", str(output)).exit_code == 0
    assert output.read_text().splitlines() == [
        f"fpnas-{target}=r.example/team/fpnas-{target}@{DIGEST}" for target in TARGETS
    ]


def test_a_failed_push_leaves_no_file(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("FPNAS_IMAGE_PREFIX", "fpnas")
    with pytest.raises(InputError):
        invoke("push", "--output", str(tmp_path / "images.txt"))
    assert not (tmp_path / "images.txt").exists()


@pytest.mark.parametrize("there", [(), ("mmdebstrap",)])
def test_the_stand_in_for_a_base_names_what_it_needs(tmp_path, there):
    for name in there:
        (tmp_path / name).touch(mode=0o755)
    script = ROOT / "docker" / "stand-in-base.sh"
    done = subprocess.run(
        ["/bin/sh", script],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"{'podman' if there else 'mmdebstrap'} is missing; install it" in done.stderr
