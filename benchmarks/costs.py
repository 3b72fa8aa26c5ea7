"""Writes ``docs/costs.md``: published GPU-hours, computed work, and what our runs took.

python benchmarks/costs.py
"""

from __future__ import annotations

import csv
import textwrap
from pathlib import Path

from fpnas.report.published import PUBLISHED
from pipelines.plan import load_profile

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "costs.md"
RUNS = ROOT / "results" / "pipeline_runs.csv"
IMAGENET_PICTURES = 1_281_167
_BACKWARD = 2  # the gradients of the weights and of the activations cost a forward pass each

# GPU-days of a search on V100 cards, from the tables of the paper; `>` where it says so. Of
# FP-NAS-S1++ it gives 6.7 in one table and 4.4 in another.
SEARCH_GPU_DAYS: dict[str, tuple[str, float]] = {
    "FP-NAS-S1": ("", 2.4),
    "FP-NAS-S2": ("", 2.8),
    "FP-NAS-S3": ("", 3.3),
    "FP-NAS-S4": ("", 4.3),
    "FP-NAS-S1++": ("", 6.7),
    "FP-NAS-S4++": ("", 7.6),
    "FP-NAS-L0": ("", 28.7),
    "FP-NAS-L1": ("", 58.6),
    "FBNetV2-F1": ("", 8.3),
    "FBNetV2-F4": ("", 8.3),
    "FBNetV2-L1": ("", 25.0),
    "ProxylessNAS": ("", 8.3),
    "AtomNAS": ("", 34.0),
    "MnasNet-A1": ("", 3790.0),
    "MobileNetV3-Large": (">", 3790.0),
    "EfficientNet-B0": (">", 3790.0),
}
# Models of the paper's ablations, with MACs in millions and top-1 from there.
ABLATIONS: dict[str, tuple[float, float]] = {
    "FP-NAS-S1": (58, 68.6),
    "FP-NAS-S2": (88, 71.3),
    "FP-NAS-S3": (131, 73.4),
    "FP-NAS-S4": (240, 76.2),
}
PROFILES = {"S": "imagenet-s", "L": "imagenet-l"}


def published_table() -> list[str]:
    """Search GPU-hours by model."""
    points = {p.name: (p.macs / 1e6, 100 * p.top1) for p in PUBLISHED} | ABLATIONS
    lines = ["| model | search, V100-hours | MACs, M | top-1, % |", "|---|---|---|---|"]
    for name, (sign, days) in SEARCH_GPU_DAYS.items():
        macs, top1 = points[name]
        lines.append(f"| {name} | {sign}{24 * days:,.0f} | {macs:,.0f} | {top1:.1f} |")
    return lines


def training_macs(macs: float, epochs: int) -> float:
    """Multiply-accumulates of training on ImageNet: each picture forwards and backwards."""
    return macs * (1 + _BACKWARD) * epochs * IMAGENET_PICTURES


def training_table() -> list[str]:
    """Work of training from scratch, which the paper does not give in hours."""
    lines = ["| model | profile | epochs | training, 10^18 MACs |", "|---|---|---|---|"]
    for point in PUBLISHED:
        if point.name.startswith("FP-NAS-"):
            profile = PROFILES[point.name[len("FP-NAS-")]]
            epochs = int(load_profile(profile)["recipe"]["epochs"])
            work = training_macs(point.macs, epochs) / 1e18
            lines.append(f"| {point.name} | `{profile}` | {epochs} | {work:,.2f} |")
    return lines


def runs_table() -> list[str]:
    """What whole pipelines took on this project's machine."""
    lines = [
        "| run | samples | search, s | train, s | distill, s | whole, s | core-hours |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in _read(RUNS):
        if float(row["coarse_seconds"]) < 1:  # a run that found everything
            continue
        cores = int(row["machine"].split(", ")[1].split()[0])
        hours = cores * float(row["seconds"]) / 3600
        columns = ("search_seconds", "train_seconds", "distill_seconds", "seconds")
        cells = [row["run"], row["num_samples"], *(f"{float(row[c]):,.0f}" for c in columns)]
        lines.append(f"| {' | '.join(cells)} | {hours:.2f} |")
    return lines


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


BILL = """
Made by `python benchmarks/costs.py`. GPU-hours times the price of a GPU-hour is the bill; every
run logs its own to MLflow and to its report: seconds of each stage, architectures sampled,
forward and backward passes, peak memory.
"""
SEARCHING = """
From the FP-NAS paper, whose searches ran on 8 V100: 100 classes of ImageNet, half of the pictures
for the weights. A search of FBNetV2-F at 128 pixels takes about 26 GPU-hours and 1.9 GPU-seconds
more for every architecture sampled; that is our fit to its table of schedules. Nothing here was
measured by us.
"""
TRAINING = """
The paper trained on 64 V100 and does not say for how long. What a training run computes follows
from the network and the epochs of a profile: a forward pass and twice as much backwards for each
of ImageNet's 1,281,167 pictures. Divide by what your GPU does in a second, sustained and not its
peak. Distillation is the same again and the teacher's forward passes.
"""
RUNNING = """
On two x86-64 cores without a GPU ([results/pipeline_runs.csv](../results/pipeline_runs.csv)),
from pictures to a registered model; core-hours are the whole time on both cores. What the
strategies of a search take is in [results/search.md](../results/search.md). No search and no
training was measured on a GPU: `make bench-gpu` does, and `fpnas compare` shows the bills of your
own runs.
"""


def page() -> str:
    """The page."""
    parts = [
        "# Costs",
        _wrapped(BILL),
        "## Published: searching",
        _wrapped(SEARCHING),
        "\n".join(published_table()),
        "## Computed: training",
        _wrapped(TRAINING),
        "\n".join(training_table()),
        "## Measured: our runs",
        _wrapped(RUNNING),
        "\n".join(runs_table()),
    ]
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(
        " ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False
    )


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
