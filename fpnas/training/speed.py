"""Latency and throughput of a classifier, each with how it was measured.

Tensor shapes: B pictures, S input size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn

from fpnas.training.inference import Runner, without_gradients

LATENCY_BATCH, THROUGHPUT_BATCH = 1, 32
_WARMUP_RUNS, _LEAST_RUNS, _MOST_RUNS, _SECONDS = 5, 20, 500, 0.8

METHOD = (
    f"Random pictures that are in memory, float32. Latency: batch {LATENCY_BATCH}, median and 90th "
    f"percentile. Throughput: batch {THROUGHPUT_BATCH} divided by the median. {_WARMUP_RUNS} runs "
    f"to warm up, then runs one after another for {_SECONDS} s, at least {_LEAST_RUNS}. On a GPU "
    "every run is waited for."
)
"""How :func:`measure_speed` measures, for whoever reads the figures."""


@dataclass(frozen=True)
class Speed:
    """Times of one runtime on one device at one batch size.

    Attributes:
        runtime: What computes, such as ``torch`` or ``model.onnx``.
        device: ``cpu`` or ``cuda``.
        batch_size: B.
        num_threads: Threads of the CPU that compute one batch.
        num_runs: Runs that were timed.
        median_seconds: Of a run.
        p90_seconds: 90 % of the runs took no longer.
    """

    runtime: str
    device: str
    batch_size: int
    num_threads: int
    num_runs: int
    median_seconds: float
    p90_seconds: float

    @property
    def images_per_second(self) -> float:
        """Pictures a second, run after run."""
        return self.batch_size / self.median_seconds


def measure_speed(
    run: Runner, input_size: int, *, runtime: str, device: str = "cpu"
) -> tuple[Speed, Speed]:
    """Measures a classifier at batch 1 (latency) and batch 32 (throughput); see :data:`METHOD`.

    Args:
        run: Maps pictures (B, 3, S, S) on ``device`` to logits.
        input_size: S, pixels.
        runtime: What computes.
        device: ``cpu`` or ``cuda``.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for batch_size in (LATENCY_BATCH, THROUGHPUT_BATCH):
        images = torch.rand(batch_size, 3, input_size, input_size, generator=generator)
        seconds = _times(run, images.to(device), _wait_for(device))
        found.append(
            Speed(
                runtime,
                device,
                batch_size,
                torch.get_num_threads(),
                len(seconds),
                median(seconds),
                quantiles(seconds, n=10)[-1],
            )
        )
    return found[0], found[1]


def _wait_for(device: str) -> Callable[[], None]:
    return torch.cuda.synchronize if device.startswith("cuda") else lambda: None


def _times(run: Runner, images: Tensor, wait: Callable[[], None]) -> list[float]:
    for _ in range(_WARMUP_RUNS):
        run(images)
    wait()
    seconds: list[float] = []
    while len(seconds) < _LEAST_RUNS or (len(seconds) < _MOST_RUNS and sum(seconds) < _SECONDS):
        started = time.perf_counter()
        run(images)
        wait()
        seconds.append(time.perf_counter() - started)
    return seconds


def measure_everywhere(
    model: nn.Module, input_size: int, files: dict[str, Runner] | None = None
) -> dict[str, Any]:
    """Measures a network in torch on every kind of device here, and its files on the CPU.

    Args:
        model: Maps pictures with values from 0 to 1 to logits. Left on the CPU, in evaluation
            mode.
        input_size: S, pixels.
        files: Exported files that are loaded, by name.

    Returns:
        ``method``, ``cpu`` and ``gpu`` (names), ``measurements`` (:class:`Speed` as mappings, with
        ``images_per_second``), as JSON.
    """
    model = model.cpu().eval()
    found = [*measure_speed(without_gradients(model), input_size, runtime="torch")]
    for name, run in (files or {}).items():
        found += measure_speed(run, input_size, runtime=name)
    gpu = None
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_name()
        on_gpu = without_gradients(model.cuda())
        found += measure_speed(on_gpu, input_size, runtime="torch", device="cuda")
        model.cpu()
    return {
        "method": METHOD,
        "cpu": cpu_name(),
        "gpu": gpu,
        "measurements": [
            {**asdict(speed), "images_per_second": speed.images_per_second} for speed in found
        ],
    }


def cpu_name() -> str:
    """The processor's name, or its architecture where the machine does not tell."""
    import platform

    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
