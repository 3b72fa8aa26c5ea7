"""The command line: exit statuses, one JSON document on stdout, bad input before any work."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


def fpnas(*words: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    hidden = ("S3_ENDPOINT_URL", "MLFLOW_TRACKING_URI", "AWS_", "FPNAS_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    return subprocess.run(
        [sys.executable, "-m", "fpnas.cli", *words],
        cwd=cwd,
        env={**kept, "FPNAS_HOME": str(cwd / "home"), "OMP_NUM_THREADS": "1", **environ},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_space_show_prints_one_json_document(tmp_path):
    done = fpnas("space", "show", "fbnetv2_f", "--json", cwd=tmp_path)
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert shown["uniform_entropy_nats"] == pytest.approx(56.25, abs=0.01)
    assert (shown["num_factorized_parameters"], shown["num_joint_parameters"]) == (176, 3624)
    assert set(shown["models"]) == {"s1", "s2", "s3", "s4"}
    for model in shown["models"].values():
        assert model["min_macs"] < model["median_macs"] < model["max_macs"]
        assert model["num_blocks"] == 17


def pictures(folder: Path, classes: int, count: int) -> Path:
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True, exist_ok=True)
        for index in range(count):
            colour = (label * 60, index * 20, 99)
            Image.new("RGB", (16, 16), colour).save(folder / f"class{label}" / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: p / "absent", "absent"),
        (lambda p: (p / "empty").mkdir() or p / "empty", "empty"),
        (lambda p: pictures(p / "one", 1, 4), "class"),
        (lambda p: pictures(p / "few", 3, 1), "class"),
    ],
)
def test_data_that_cannot_be_used_is_refused_before_any_work(tmp_path, make, expected):
    message = refusal(fpnas("run", "--data", str(make(tmp_path)), cwd=tmp_path))
    assert expected in message
    assert "Fix: " in message
    assert not list((tmp_path / "home").glob("runs/*"))
    assert not list((tmp_path / "home").glob("s3/fpnas/artifacts/*"))


def test_storage_that_does_not_answer_is_refused_before_any_work(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = fpnas(
        "run",
        cwd=tmp_path,
        S3_ENDPOINT_URL=f"http://127.0.0.1:{port}",
        AWS_ACCESS_KEY_ID="someone",
        AWS_SECRET_ACCESS_KEY="hunter2",
    )
    message = refusal(done)
    assert "S3_ENDPOINT_URL" in message
    assert "hunter2" not in message


def test_a_port_in_use_is_refused(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "S3_PORT" in refusal(fpnas("run", cwd=tmp_path, S3_PORT=port))
        assert "MLFLOW_PORT" in refusal(fpnas("ui", "--port", port, cwd=tmp_path))
    assert "S3_PORT=http" in refusal(fpnas("run", cwd=tmp_path, S3_PORT="http"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "--space", "sa_expandet"), "did you mean sa_expanded"),
        (("run", "--engine", "slurm"), "ENGINE=slurm"),
        (("doctor", "--engine", "spark"), "ENGINE=spark is not available"),
        (("run", "--engine", "kfp"), "KF_PIPELINES_ENDPOINT=(empty)"),
        (("compare",), "holds no finished run"),
        (("space", "show", "nothing"), "SPACE=nothing"),
        (("stage", "training", "--config", "a", "--run", "b"), "STAGE=training"),
        (("run", "--sett", "a"), "No such option"),
    ],
)
def test_bad_words_are_refused(tmp_path, words, expected):
    assert expected in refusal(fpnas(*words, cwd=tmp_path))


def test_doctor_prints_its_checks(tmp_path):
    done = fpnas("doctor", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == (1 if any(c["status"] == "fail" for c in found) else 0)
    assert len(found) > 5
    assert all(c["fix"] for c in found if c["status"] != "ok")
