"""The table that compares runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from fpnas.report.formats import (
    MISSING,
    format_count,
    format_macs,
    format_milliseconds,
    format_percent,
    format_seconds,
)

COMPARISON_COLUMNS: Mapping[str, str] = {
    "run": "run",
    "space": "space",
    "model": "model",
    "strategy": "strategy",
    "top1": "top-1",
    "distilled_top1": "distilled top-1",
    "macs": "MACs",
    "target_macs": "target",
    "params": "params",
    "num_samples": "samples",
    "search_seconds": "search",
    "latency_ms": "latency",
    "images_per_second": "images/s",
    "registered_model": "registered model",
    "version": "version",
    "aliases": "aliases",
    "note": "times",
}
"""Keys of a row of :func:`comparison_table`, and their headings."""


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Lays runs side by side, from cheap to dear.

    Args:
        rows: One mapping a run with keys of :data:`COMPARISON_COLUMNS`; what is absent is missing
            in the table. ``aliases`` is a sequence of names; accuracies are fractions.

    Returns:
        The columns of :data:`COMPARISON_COLUMNS` under their keys, as plain numbers and strings,
        by MACs and then by run; rows without MACs come last.

    Raises:
        ValueError: A row has an unknown key.
    """
    for row in rows:
        if unknown := sorted(set(row) - set(COMPARISON_COLUMNS)):
            raise ValueError(
                f"row has unknown keys {', '.join(unknown)}. Legal: {', '.join(COMPARISON_COLUMNS)}"
            )
    records = [
        {
            key: ", ".join(row.get(key) or ()) if key == "aliases" else row.get(key)
            for key in COMPARISON_COLUMNS
        }
        for row in rows
    ]
    table = pd.DataFrame(records, columns=list(COMPARISON_COLUMNS)).replace("", None)
    for column in _FORMATS:
        table[column] = pd.to_numeric(table[column])
    return table.sort_values(["macs", "run"], kind="stable", ignore_index=True)


_FORMATS: dict[str, Callable[[float | None], str]] = {
    "top1": format_percent,
    "distilled_top1": format_percent,
    "macs": format_macs,
    "target_macs": format_macs,
    "params": format_count,
    "num_samples": format_count,
    "search_seconds": format_seconds,
    "latency_ms": format_milliseconds,
    "images_per_second": format_count,
}

NUMBERS = frozenset(_FORMATS)
"""Columns of :func:`comparison_table` that hold numbers."""


def format_comparison(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the table of :func:`comparison_table` as text under readable headings."""
    columns = {
        heading: [
            _FORMATS[key](value) if key in _FORMATS else MISSING if pd.isna(value) else str(value)
            for value in table[key]
        ]
        for key, heading in COMPARISON_COLUMNS.items()
    }
    return pd.DataFrame(columns, dtype=str)


_VIEW: Mapping[str, tuple[str, ...]] = {
    "run": ("run", "registered_model", "aliases"),
    "top-1": ("top1",),
    "distilled": ("distilled_top1",),
    "MACs": ("macs", "target_macs"),
    "params": ("params",),
    "search": ("strategy", "search_seconds", "num_samples"),
    "speed": ("latency_ms", "images_per_second"),
}
"""What stands under one another in each column of a terminal, which has little room."""


def comparison_view(table: pd.DataFrame) -> Table:
    """Returns the table of :func:`comparison_table` for a terminal; the best top-1 is bold.

    Columns in which no run has anything are left out. Runs whose times do not compare are named
    below.
    """
    text = format_comparison(table).set_axis(list(COMPARISON_COLUMNS), axis=1)
    best = pd.concat([table["top1"], table["distilled_top1"]]).max()
    words = {
        "registered_model": lambda row: f"{row['registered_model']} v{row['version']}",
        "target_macs": lambda row: f"of {row['target_macs']}",
        "num_samples": lambda row: f"{row['num_samples']} drawn",
        "images_per_second": lambda row: f"{row['images_per_second']}/s",
    }
    view = Table(header_style="bold", box=box.SIMPLE_HEAD, show_lines=False)
    shown = {
        heading: [key for key in keys if table[key].notna().any()]
        for heading, keys in _VIEW.items()
    }
    for heading in (heading for heading, keys in shown.items() if keys):
        is_number = set(_VIEW[heading]) <= NUMBERS
        view.add_column(
            heading,
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=is_number,
        )
    for index, row in enumerate(text.to_dict("records")):
        cells = []
        for keys in filter(None, shown.values()):
            lines = [
                words[key](row) if key in words else row[key]
                for key in keys
                if row[key] != MISSING or len(keys) == 1
            ]
            is_best = keys[0].endswith("top1") and table[keys[0]].iloc[index] == best
            # Text, not str: a run's name must not be read as markup.
            cells.append(Text("\n".join(lines) or MISSING, "bold" if is_best else ""))
        view.add_row(*cells)
    noted = table[table["note"].notna()]
    notes = [f"{run}: {note}" for run, note in zip(noted["run"], noted["note"], strict=True)]
    if notes:
        view.caption = Text("times that do not compare: " + "; ".join(notes))
        view.caption_justify = "left"
    return view


def speed_rows(speed: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """One row for each runtime and device of :func:`fpnas.training.speed.measure_everywhere`.

    Each has ``runtime``, ``machine``, ``threads``, ``median_ms``, ``p90_ms`` (of one picture) and
    ``images_per_second`` (in batches).
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for one in speed["measurements"] if speed else ():
        assert speed is not None
        on_gpu = one["device"] != "cpu"
        row = rows.setdefault(
            (one["runtime"], one["device"]),
            {
                "runtime": one["runtime"],
                "machine": speed["gpu"] if on_gpu else speed["cpu"],
                "threads": MISSING if on_gpu else one["num_threads"],
            },
        )
        if one["batch_size"] == 1:
            row["median_ms"] = 1e3 * one["median_seconds"]
            row["p90_ms"] = 1e3 * one["p90_seconds"]
        else:
            row["images_per_second"] = one["images_per_second"]
    return list(rows.values())


def exported_table(files: Sequence[Mapping[str, Any]]) -> Table:
    """Exported files beside the network, from :class:`fpnas.training.export.ExportedFile`."""
    table = Table("file", "size", "top-1", "first class as the network", "largest difference")
    for file in files:
        size = file["size_bytes"]
        table.add_row(
            file["name"],
            f"{size / 2**20:.2f} MiB" if size else MISSING,
            format_percent(file["top1"]),
            format_percent(file["agreement"]),
            f"{file['max_difference']:.2g}",
        )
    return table
