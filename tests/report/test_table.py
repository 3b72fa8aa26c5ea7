import io

import pytest
from rich.console import Console

from fpnas.report.formats import (
    format_count,
    format_macs,
    format_milliseconds,
    format_percent,
    format_points,
    format_seconds,
)
from fpnas.report.table import (
    COMPARISON_COLUMNS,
    comparison_table,
    comparison_view,
    format_comparison,
)

ROWS = [
    {"run": "big", "space": "sa_f", "model": "s1pp", "macs": 390e6, "top1": 0.77},
    {
        "run": "[red]small",
        "space": "tiny",
        "model": "t0",
        "macs": 5_200_000,
        "target_macs": 6_000_000,
        "top1": 0.412,
        "distilled_top1": 0.951,
        "params": 279_281,
        "num_samples": 1820,
        "search_seconds": 192.0,
        "registered_model": "fp-nas-t0",
        "version": "3",
        "aliases": ["champion", "challenger"],
        "strategy": "fpnas",
        "latency_ms": 0.5461,
        "images_per_second": 2193.4,
        "note": "resumed: train",
    },
    {"run": "failed", "space": "tiny", "model": "t0"},
]


@pytest.mark.parametrize(
    ("macs", "text"),
    [
        (0, "0"),
        (812_400, "812 k"),
        (999_499, "999 k"),
        (999_500, "1.0 M"),
        (58_100_000, "58.1 M"),
        (99_960_000, "100 M"),
        (131_000_000, "131 M"),
        (299_600_000, "0.30 G"),
        (390_000_000, "0.39 G"),
        (1_045_000_000, "1.04 G"),
        (None, "-"),
        (float("nan"), "-"),
    ],
)
def test_format_macs(macs, text):
    assert format_macs(macs) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(7, "7"), (54_312, "54,312"), (5_910_000, "5.91 M"), (1.2e9, "1.20 G"), (None, "-")],
)
def test_format_count(count, text):
    assert format_count(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.42, "0.4 s"),
        (9.97, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (192, "3 min 12 s"),
        (3599.7, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (86_399, "1 d 0 h"),
        (273_600, "3 d 4 h"),
        (None, "-"),
    ],
)
def test_format_seconds(seconds, text):
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0.5461, "0.546 ms"), (4.0, "4.00 ms"), (12.34, "12.3 ms"), (240.4, "240 ms"), (None, "-")],
)
def test_format_milliseconds(milliseconds, text):
    assert format_milliseconds(milliseconds) == text


def test_format_percent_and_points():
    assert format_percent(0.9534) == "95.3 %"
    assert format_percent(0.5, digits=0) == "50 %"
    assert format_points(0.012) == "+1.2 points"
    assert format_points(-0.012) == "-1.2 points"
    assert format_percent(None) == format_points(float("nan")) == "-"


def test_comparison_is_sorted_by_macs_with_unknown_last():
    table = comparison_table(ROWS)
    assert table["run"].tolist() == ["[red]small", "big", "failed"]
    assert list(table.columns) == list(COMPARISON_COLUMNS)
    assert table["macs"].iloc[0] == 5_200_000


def test_comparison_of_nothing_has_all_columns():
    assert list(comparison_table([]).columns) == list(COMPARISON_COLUMNS)
    assert comparison_view(comparison_table([])).row_count == 0


def test_comparison_refuses_unknown_keys():
    with pytest.raises(ValueError, match="top_1"):
        comparison_table([{"run": "a", "top_1": 0.5}])


def test_comparison_as_text():
    text = format_comparison(comparison_table(ROWS)).iloc[0].to_dict()
    assert text["top-1"] == "41.2 %"
    assert text["target"] == "6.0 M"
    assert text["search"] == "3 min 12 s"
    assert text["aliases"] == "champion, challenger"


def test_comparison_in_a_terminal_takes_names_literally():
    out = io.StringIO()
    view = comparison_view(comparison_table(ROWS))
    Console(file=out, width=200).print(view)
    assert "[red]small" in out.getvalue()
    assert "95.1 %" in out.getvalue()
    assert "fp-nas-t0 v3" in out.getvalue()
    assert "0.546 ms" in out.getvalue()
    assert "2,193/s" in out.getvalue()
    assert "do not compare: [red]small: resumed: train" in out.getvalue()
    # A run without an entry in the registry is not given one.
    assert "- v" not in out.getvalue()


def test_comparison_in_a_terminal_leaves_out_empty_columns():
    view = comparison_view(comparison_table([{"run": "a", "macs": 1e6, "top1": 0.5}]))
    assert [column.header for column in view.columns] == ["run", "top-1", "MACs"]
