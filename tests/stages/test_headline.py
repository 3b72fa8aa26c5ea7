"""The figures on the pipeline's run, of runs of every kind."""

import pytest

from fpnas.stages.base import RunInfo
from fpnas.stages.headline import best_scores, log_headline, speed_metrics

INFO = RunInfo(run_id="r", space="tiny", model="t0", profile="smoke", seed=3, command="fpnas run")
TRAIN = {"top1": 0.5, "top5": 0.9, "loss": 1.0, "num_images": 100, "calibration_error": 0.02}
SUMMARY = {
    "architecture": {"macs": 7, "params": 5, "target_macs": 9, "string": "c16", "sha256": "ab"},
    "search": {
        "strategy": "fpnas",
        "num_samples": 20,
        "num_forwards": 30,
        "num_backwards": 20,
        "alarms": [{"name": "collapse", "stage": "fine", "message": "m"}],
    },
    "train": TRAIN,
    "distill": {**TRAIN, "top1": 0.6, "teacher": {"name": "wider", "top1": 0.7}},
}


class Recorder:
    def __init__(self):
        self.metrics, self.params, self.tags = {}, {}, {}

    def log_metrics(self, step, metrics):
        assert step == 0
        self.metrics |= metrics

    def log_params(self, params):
        self.params |= params

    def set_tags(self, tags):
        self.tags |= tags


def logged(summary, seconds):
    run = Recorder()
    log_headline(run, INFO, summary, seconds)
    return run


def test_a_run_with_everything():
    run = logged(SUMMARY, {"coarse": 5.0, "fine": 2.0, "train": 10.0})
    expected = {"top1": 0.6, "top1_train": 0.5, "macs": 7, "num_samples": 20, "search_seconds": 7}
    assert run.metrics.items() >= expected.items()
    assert run.metrics["distillation_gain"] == pytest.approx(0.1)
    assert run.metrics["total_seconds"] == 17
    assert run.params["strategy"] == "fpnas"
    assert run.tags["fpnas.alarms"] == "collapse"


def test_a_run_without_search_and_distillation_says_nothing_of_them():
    summary = {**SUMMARY, "search": None, "distill": None}
    summary["architecture"] = {"macs": 7, "params": 5, "string": "resnet18"}
    run = logged(summary, {"train": 10.0})
    assert run.metrics == {
        "top1": 0.5,
        "top5": 0.9,
        "top1_train": 0.5,
        "calibration_error": 0.02,
        "macs": 7,
        "params": 5,
        "total_seconds": 10.0,
    }
    assert run.params["strategy"] == "none"
    assert run.tags["fpnas.alarms"] == "none"


def test_the_undistilled_model_is_the_better_one_when_they_are_equal():
    assert best_scores({"train": TRAIN, "distill": {**TRAIN, "loss": 2.0}}) is TRAIN


def test_names_of_speed_metrics():
    measurements = [
        {
            "runtime": runtime,
            "device": device,
            "batch_size": batch,
            "median_seconds": 0.004,
            "images_per_second": 8.0,
        }
        for runtime, device in (("torch", "cpu"), ("model.int8.onnx", "cpu"), ("torch", "cuda"))
        for batch in (1, 32)
    ]
    assert speed_metrics({"measurements": measurements}) == {
        "latency_ms": 4.0,
        "throughput_images_per_s": 8.0,
        "latency_ms_int8": 4.0,
        "throughput_images_per_s_int8": 8.0,
        "latency_ms_gpu": 4.0,
        "throughput_images_per_s_gpu": 8.0,
    }
    assert speed_metrics(None) == {}
