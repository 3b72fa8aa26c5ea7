"""Speed is measured as its description says; the values themselves depend on the machine."""

import json

import pytest
import torch
from torch import nn

from fpnas.training import speed
from fpnas.training.speed import Speed, measure_everywhere, measure_speed


def test_latency_is_of_one_picture_and_throughput_of_a_batch(monkeypatch):
    monkeypatch.setattr(speed, "_SECONDS", 0.0)
    seen = []
    latency, throughput = measure_speed(lambda x: seen.append(x.shape) or x, 8, runtime="mine")
    assert (latency.batch_size, throughput.batch_size) == (1, 32)
    assert set(seen) == {(1, 3, 8, 8), (32, 3, 8, 8)}
    warmup = speed._WARMUP_RUNS
    assert len(seen) == 2 * (warmup + speed._LEAST_RUNS)
    assert latency.num_runs == speed._LEAST_RUNS
    assert 0 < latency.median_seconds <= latency.p90_seconds
    assert latency.num_threads == torch.get_num_threads()
    assert latency.runtime == "mine"


def test_times_are_those_of_the_clock(monkeypatch):
    # Runs take 1, 2, ... 20 seconds by this clock.
    ticks = iter([value for n in range(1, 100) for value in (100 * n, 100 * n + n)])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(ticks))
    latency, _ = measure_speed(lambda x: x, 8, runtime="mine")
    assert latency.num_runs == 20
    assert latency.median_seconds == 10.5
    assert latency.p90_seconds == pytest.approx(18.9)


def test_pictures_a_second():
    assert Speed("torch", "cpu", 32, 1, 20, 0.5, 0.6).images_per_second == 64


def test_everything_that_can_compute_is_measured(monkeypatch):
    monkeypatch.setattr(speed, "_SECONDS", 0.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    model(torch.zeros(1, 3, 8, 8))
    found = json.loads(json.dumps(measure_everywhere(model, 8, {"model.onnx": lambda x: x})))
    assert [
        (one["runtime"], one["device"], one["batch_size"]) for one in found["measurements"]
    ] == [
        ("torch", "cpu", 1),
        ("torch", "cpu", 32),
        ("model.onnx", "cpu", 1),
        ("model.onnx", "cpu", 32),
    ]
    assert found["gpu"] is None
    assert found["cpu"]
    assert "batch 32" in found["method"]
    one = found["measurements"][1]
    assert one["images_per_second"] == pytest.approx(32 / one["median_seconds"])
