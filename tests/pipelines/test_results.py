"""Documents of runs of every kind become rows and summaries."""

import io
import json
import os

import pytest
from rich.console import Console

from fpnas.errors import InputError
from fpnas.report.table import comparison_table
from pipelines.results import comparison_row, csv_row, latest_registered, notes
from pipelines.summary import print_summary

SCORES = {"top1": 0.5, "top5": 0.9, "loss": 1.0, "num_images": 100, "calibration_error": 0.02}
SPEED = {
    "cpu": "a processor",
    "other_cores": 0.0,
    "measurements": [
        {
            "runtime": "torch",
            "device": "cpu",
            "batch_size": batch,
            "median_seconds": 0.004 * batch,
            "images_per_second": 250.0,
        }
        for batch in (1, 32)
    ],
}
BASELINE = {
    "run_id": "resnet18-1",
    "space": "tiny",
    "model": "t0",
    "stages": [{"name": "train", "cached": False, "seconds": 2.0, "artifact": "s3://a/b"}],
    "architecture": {"macs": 5_000_000, "params": 7, "string": "resnet18"},
    "baseline": {"name": "resnet18"},
    "search": None,
    "train": SCORES,
    "distill": None,
    "mlflow": {"tracking_uri": "http://a:1", "experiment_id": "1", "run_id": "m"},
    "command": "fpnas baseline resnet18",
}


def printed(result):
    out = io.StringIO()
    print_summary(result, Console(file=out, width=300))
    return out.getvalue()


def test_a_run_without_search_and_distillation():
    table = comparison_table([comparison_row(BASELINE)])
    row = table.iloc[0]
    assert (row["run"], row["top1"], row["macs"]) == ("resnet18-1", 0.5, 5_000_000)
    assert row["strategy"] == "baseline"
    assert csv_row(BASELINE)["top5"] == 0.9
    absent = ("distilled_top1", "num_samples", "search_seconds", "version", "note", "latency_ms")
    assert table[list(absent)].isna().all(axis=None)
    text = printed(BASELINE)
    assert "50.0 % trained" in text
    assert "distilled" not in text
    assert "search" not in text
    assert "registered" not in text


def test_speed_is_in_the_row_and_in_the_summary():
    result = {**BASELINE, "speed": SPEED}
    assert comparison_row(result)["latency_ms"] == pytest.approx(4.0)
    assert comparison_row(result)["images_per_second"] == 250
    assert "4.00 ms a picture alone, 250 pictures a second" in printed(result)


def test_times_that_cannot_be_compared_are_named():
    stages = [
        {"name": "coarse", "bill": {"seconds": 1.0, "resumed": True, "other_cores": 0.0}},
        {"name": "fine", "bill": {"seconds": 1.0, "other_cores": 999.0}},
        {"name": "train", "bill": {"seconds": 1.0, "other_cores": None}},
    ]
    clean = {"stages": stages[2:], "speed": SPEED}
    assert notes(clean) == []
    found = notes({"stages": stages, "speed": {**SPEED, "other_cores": 999.0}})
    assert found == ["resumed: coarse", "other load: fine speed"]


def test_the_latest_run_that_was_registered(tmp_path, monkeypatch):
    monkeypatch.setenv("FPNAS_HOME", str(tmp_path))

    def finish(name, model, when):
        path = tmp_path / "runs" / name / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"run_id": name, "registered_model": model}))
        os.utime(path, (when, when))

    finish("baseline", None, 30)
    with pytest.raises(InputError, match="has no registered model"):
        latest_registered(None)
    finish("newer", {"name": "m"}, 20)
    finish("older", {"name": "m"}, 10)
    assert latest_registered(None)["run_id"] == "newer"
    assert latest_registered("older")["run_id"] == "older"
    with pytest.raises(InputError, match="run=baseline has no registered model"):
        latest_registered("baseline")
