"""Measures what an engine adds to every stage: a finished run is given again, and finds everything.

    python benchmarks/engine_overhead.py [--home FOLDER] [--runs 5] [--engine local --engine docker]

Writes ``results/engine_overhead.csv``: one row an engine. A stage that finds its result costs a
container or a process, Python, KFP's executor and a few requests to S3. ``stage_seconds`` is the
median over all stages of all runs of the time from the end of one stage to the end of the next,
``start_seconds`` the median time from the command to the start of the first stage (S3, MLflow's
server where containers need it), ``end_seconds`` from the last stage's end to that of the command.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from workshop import RESULTS, append

OUTPUT = RESULTS / "engine_overhead.csv"


def run(engine: str, home: Path) -> dict[str, Any]:
    """Runs the pipeline on digits; returns its document with the times around it."""
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "fpnas.cli", "run", "--engine", engine, "--json"],
        env={**os.environ, "FPNAS_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout)
    events = home / "runs" / result["run_id"] / "events.jsonl"
    told = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    first = next(event["time"] for event in told if event["event"] == "start")
    ends = [event["time"] for event in told if event["event"] == "end"]
    return {
        "cached": all(stage["cached"] for stage in result["stages"]),
        "start": first - started,
        "gaps": [after - before for before, after in itertools.pairwise(ends)],
        "end": time.time() - ends[-1],
        "wall": time.time() - started,
    }


def measure(engine: str, home: Path, number: int) -> dict[str, object]:
    """Gives the finished run again; returns the row of an engine."""
    run(engine, home)
    runs = [run(engine, home) for _ in range(number)]
    assert all(one["cached"] for one in runs)
    gaps = [gap for one in runs for gap in one["gaps"]]
    medians = {
        name: statistics.median(one[name] for one in runs) for name in ("start", "end", "wall")
    }
    return {
        "engine": engine,
        "runs": number,
        "stages_a_run": len(runs[0]["gaps"]) + 1,
        "stage_seconds": round(statistics.median(gaps), 2),
        "slowest_stage_seconds": round(max(gaps), 2),
        **{f"{name}_seconds": round(value, 2) for name, value in medians.items()},
    }


def main() -> None:
    """Measures the engines that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--home", type=Path, help="With finished runs, one folder an engine.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--engine", action="append", choices=("local", "docker"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for engine in arguments.engine or ("local", "docker"):
            row = measure(engine, (arguments.home or Path(folder)) / engine, arguments.runs)
            append(OUTPUT, row)
            print(row)


if __name__ == "__main__":
    main()
