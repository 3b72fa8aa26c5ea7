"""The page of what `benchmarks/loader.py` measured."""

from __future__ import annotations

from workshop import RESULTS, Row, read

CSV = RESULTS / "loader.csv"
PAGE = RESULTS / "loader.md"

_HEAD = """# The input pipeline

Made by `make bench-loader`; figures of [loader.csv](loader.csv), which also holds the spread, the
commit, the versions and the machine's load. Pictures per second, medians of repeats in which the
readers took turns. All give the same batches (random resized crop, mirrored, uint8), with two
decoding threads (ours) or two persistent worker processes (theirs). *First epoch* decodes and
includes every start: of threads and workers and, from S3, fetching all shards into an empty cache.
*times* compares with ImageFolder's first epoch, from disk, which has no S3 reader.

"""


def write_page() -> None:
    """Writes ``results/loader.md``."""
    rows = read(CSV)
    lines = []
    for case in dict.fromkeys(row["case"] for row in rows):
        of = [row for row in rows if row["case"] == case]
        lines += [f"## {case} px", "", "| reader | first epoch | times | later epochs |"]
        lines += ["|---|---|---|---|"]
        base = _rate(of, "ImageFolder", "first")
        for reader in dict.fromkeys(row["reader"] for row in of):
            first, later = _rate(of, reader, "first"), _rate(of, reader, "later")
            cells = [f"{first:,}", f"{first / base:.2f}", f"{later:,}" if later else ""]
            lines.append(f"| {reader} | {' | '.join(cells)} |")
        lines.append("")
    PAGE.write_text(_HEAD + "\n".join(lines), encoding="utf-8")


def _rate(rows: list[Row], reader: str, epoch: str) -> int:
    """The latest measurement; 0 when there is none."""
    found = [r for r in rows if (r["reader"], r["epoch"]) == (reader, epoch)]
    return int(found[-1]["images_per_second"]) if found else 0
