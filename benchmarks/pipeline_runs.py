"""Runs whole pipelines in fresh homes and records what they found and what they cost.

    python benchmarks/pipeline_runs.py [--images FOLDER] [--home FOLDER] [--runs NAME ...]

Writes ``results/pipeline_runs.csv``: one row a run, with the commit, the machine and the versions.
The run on images is left out when no folder is given; rows of other runs stay.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "results" / "pipeline_runs.csv"


def run(name: str, options: list[str], home: Path) -> dict[str, object]:
    """Runs one pipeline and returns its row."""
    environ = {**os.environ, "FPNAS_HOME": str(home)}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "fpnas.cli", "run", "--json", *options],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.monotonic() - started
    result = json.loads(done.stdout)
    architecture, search = result["architecture"], result["search"]
    stages = {f"{s['name']}_seconds": s["seconds"] for s in result["stages"]}
    return {
        "run": name,
        "options": " ".join(options),
        "seconds": round(seconds, 1),
        "top1_train": round(result["train"]["top1"], 4),
        "top1_distill": round(result["distill"]["top1"], 4),
        "top1_teacher": round(result["distill"]["teacher"]["top1"], 4),
        "teacher": result["distill"]["teacher"]["name"],
        "macs": architecture["macs"],
        "target_macs": architecture["target_macs"],
        "params": architecture["params"],
        "num_samples": search["num_samples"],
        "search_seconds": search["seconds"],
        **stages,
        "architecture": architecture["string"],
    }


def commit() -> str:
    """The commit that is measured, marked when the tree differs from it."""
    words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    """Runs and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="tiny-imagenet-25, extracted")
    parser.add_argument("--home", type=Path, help="new folder that keeps the runs")
    parser.add_argument("--runs", nargs="*", help="some of the runs, by their names")
    arguments = parser.parse_args()
    if arguments.home and arguments.home.exists():
        parser.error(f"--home {arguments.home} exists: the runs must start in a new folder")
    runs = {
        "tiny digits smoke": ["--space", "tiny"],
        "the same again": ["--space", "tiny"],
        "sa_expanded digits smoke": ["--space", "sa_expanded"],
    }
    if arguments.images:
        images = ["--space", "tiny", "--data", str(arguments.images), "--profile", "laptop"]
        runs["tiny tiny-imagenet-25 laptop"] = images
    if arguments.runs is not None:
        runs = {name: options for name, options in runs.items() if name in arguments.runs}
    machine = {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seed": 0,
    }
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for name, options in runs.items():
            row = run(name, options, arguments.home or Path(folder) / "home")
            if arguments.images:
                row["options"] = str(row["options"]).replace(
                    str(arguments.images), arguments.images.name
                )
            rows.append({**row, **machine})
            print(name, row["seconds"], "s", file=sys.stderr)
    if OUTPUT.is_file():
        with OUTPUT.open(newline="", encoding="utf-8") as file:
            rows += [row for row in csv.DictReader(file) if row["run"] not in runs]
    with OUTPUT.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
