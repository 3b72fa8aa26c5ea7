"""The page of what `benchmarks/loader.py` and `benchmarks/loader_share.py` measured."""

from __future__ import annotations

import statistics

from workshop import RESULTS, Row, read

CSV = RESULTS / "loader.csv"
SHARES = RESULTS / "loader_share.csv"
PAGE = RESULTS / "loader.md"
_FIRST, _LATER, _CPU = "first_images_per_second", "later_images_per_second", "cpu_microseconds"

_HEAD = """# The input pipeline

Made by `make bench-loader`; figures of [loader.csv](loader.csv), which also holds the commit, the
versions and the machine's load. Pictures per second, medians over the repeats. The readers of one
command take turns; those that were measured by commands of their own met another load, which the
last column shows. All give the same batches (random resized crop, mirrored, uint8), with two
decoding threads (ours) or two persistent worker processes (theirs). *First epoch* decodes, and
includes every start: of threads and workers and, from S3, fetching all shards into an empty cache;
a later epoch of ours takes kept pictures, except in the row without memory. *times* compares with
ImageFolder's first epoch, from disk, repeat by repeat. *CPU* is microseconds of all processes (but
the S3 server) for a picture, over both epochs: what else runs on the machine changes it least, so
where the load is above the number of cores it says more than pictures per second.

"""
_COLUMNS = "| reader | first epoch | times | later epoch | CPU, us | times | repeats | load |"

_SHARES_HEAD = """## The share of a training step

On the CPU, on all cores, which decode and train at the same time. Pictures that fit the loader's
memory (1 GiB) are decoded in the first epoch and kept for all others; where they do not fit, every
epoch decodes. Waiting is the part of the step until the training thread has its batch; slowdown is
the part by which steps take longer than on a batch that is held in memory, in turns with it.
Figures of [loader_share.csv](loader_share.csv).

| case | pictures | network | MACs, M | batch | step, s | waiting | slowdown | load |
|---|---|---|---|---|---|---|---|---|"""


def write_page() -> None:
    """Writes ``results/loader.md``."""
    rows = read(CSV)
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        of = [row for row in rows if row["case"] == case]
        lines += [f"## {case} px", "", _COLUMNS, "|---" * (_COLUMNS.count("|") - 1) + "|"]
        base = _figures(of, "ImageFolder")
        lines += [_line(of, reader, base) for reader in dict.fromkeys(r["reader"] for r in of)]
        lines.append("")
    PAGE.write_text(_HEAD + "\n".join([*lines, *_shares()]) + "\n", encoding="utf-8")


def _figures(rows: list[Row], reader: str) -> dict[str, list[float]]:
    """The figures of a reader's repeats, by column."""
    own = [row for row in rows if row["reader"] == reader]
    return {c: [float(row[c]) for row in own] for c in (_FIRST, _LATER, _CPU, "load")}


def _line(rows: list[Row], reader: str, base: dict[str, list[float]]) -> str:
    own = _figures(rows, reader)
    medians = {column: statistics.median(values) for column, values in own.items()}
    times = [a / b for a, b in zip(own[_FIRST], base[_FIRST], strict=False)]
    cells = [
        reader,
        f"{medians[_FIRST]:,.0f}",
        f"{statistics.median(times):.2f}" if times else "",
        f"{medians[_LATER]:,.0f}",
        f"{medians[_CPU]:,.0f}",
        f"{statistics.median(base[_CPU]) / medians[_CPU]:.2f}" if times else "",
        str(len(own[_CPU])),
        f"{medians['load']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _shares() -> list[str]:
    latest = {(row["case"], row["pictures"]): row for row in read(SHARES)}
    lines = [
        f"| {row['case']} px | {row['pictures']} | {row['network']} | "
        f"{int(row['macs']) / 1e6:.1f} | {row['batch_size']} | {row['step_seconds']} | "
        f"{float(row['waiting']):.1%} | {float(row['slowdown']):.1%} | {row['load']} |"
        for row in latest.values()
    ]
    return [_SHARES_HEAD, *lines] if lines else []
