"""The page of what `benchmarks/loader.py` and `benchmarks/loader_share.py` measured."""

from __future__ import annotations

from workshop import RESULTS, Row, read

CSV = RESULTS / "loader.csv"
SHARES = RESULTS / "loader_share.csv"
PAGE = RESULTS / "loader.md"

_HEAD = """# The input pipeline

Made by `make bench-loader`; figures of [loader.csv](loader.csv), which also holds the spread, the
commit, the versions and the machine's load. Pictures per second, medians of repeats in which the
readers took turns. All give the same batches (random resized crop, mirrored, uint8), with two
decoding threads (ours) or two persistent worker processes (theirs). *First epoch* decodes and
includes every start: of threads and workers and, from S3, fetching all shards into an empty cache.
*times* compares with ImageFolder's first epoch, from disk, which has no S3 reader. *CPU* is
microseconds of all processes (but the S3 server) for a picture, over a first and a later epoch:
other load on the machine changes it least. Two cores give at best two seconds of it a second.

"""


def write_page() -> None:
    """Writes ``results/loader.md``."""
    rows = read(CSV)
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        of = [row for row in rows if row["case"] == case]
        lines += [
            f"## {case} px",
            "",
            "| reader | first epoch | times | later epochs | CPU | times |",
        ]
        lines += ["|---|---|---|---|---|---|"]
        base = _rate(of, "ImageFolder", "first")
        base_cpu = _rate(of, "ImageFolder", "first", "cpu_microseconds")
        for reader in dict.fromkeys(row["reader"] for row in of):
            first, later = _rate(of, reader, "first"), _rate(of, reader, "later")
            cpu = _rate(of, reader, "first", "cpu_microseconds")
            cells = [f"{first:,}", f"{first / base:.2f}", f"{later:,}" if later else ""]
            cells += [f"{cpu:,}", f"{base_cpu / cpu:.2f}"]
            lines.append(f"| {reader} | {' | '.join(cells)} |")
        lines.append("")
    PAGE.write_text(_HEAD + "\n".join([*lines, *_shares()]) + "\n", encoding="utf-8")


_SHARES_HEAD = """## The share of a training step

On the CPU, on all cores, which decode and train at the same time; all pictures are decoded. Waiting
is the part of the step until the training thread has its batch; slowdown is the part by which steps
take longer than on a batch that is held in memory, in turns with it. Figures of
[loader_share.csv](loader_share.csv).

| pictures | network | MACs, M | batch | step, s | waiting | slowdown |
|---|---|---|---|---|---|---|"""


def _shares() -> list[str]:
    latest = {row["case"]: row for row in read(SHARES)}
    lines = [
        f"| {row['case']} px | {row['network']} | {int(row['macs']) / 1e6:.1f} | "
        f"{row['batch_size']} | {row['step_seconds']} | {float(row['waiting']):.1%} | "
        f"{float(row['slowdown']):.1%} |"
        for row in latest.values()
    ]
    return [_SHARES_HEAD, *lines] if lines else []


def _rate(rows: list[Row], reader: str, epoch: str, column: str = "images_per_second") -> int:
    """The latest measurement; 0 when there is none."""
    found = [r for r in rows if (r["reader"], r["epoch"]) == (reader, epoch)]
    return int(found[-1][column]) if found else 0
