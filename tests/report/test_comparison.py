"""The page that compares runs: whole, escaped, and honest about what does not compare."""

import numpy as np
import pandas as pd
import pytest

from fpnas.architecture import architecture_at
from fpnas.report.comparison import ComparedRun, render_comparison
from fpnas.report.comparison_figures import compared_curves
from fpnas.space import load_space

from .test_html import EVIL, Page

SPACE = load_space("tiny").open()
ARCHITECTURE = architecture_at(SPACE, [[0] * 5] * SPACE.num_groups)


def epochs(number=5):
    steps = np.arange(1, number + 1)
    return pd.DataFrame({"epoch": steps, "val_loss": 2.0 / steps, "top1": 0.1 * steps})


def speed(cpu="one processor"):
    times = {"num_threads": 2, "num_runs": 20, "median_seconds": 0.002, "p90_seconds": 0.003}
    return {
        "method": "By the clock.",
        "cpu": cpu,
        "gpu": None,
        "measurements": [
            {"runtime": "torch", "device": "cpu", "batch_size": batch, **times} | extra
            for batch, extra in ((1, {}), (32, {"images_per_second": 16_000.0}))
        ],
    }


def searched(name="small", **changes):
    values = {
        "row": {
            "run": name,
            "model": "t0",
            "top1": 0.5,
            "distilled_top1": 0.6,
            "macs": 2e6,
            "strategy": "fpnas",
        },
        "pictures": "digits (ab)",
        "architecture": ARCHITECTURE,
        "num_classes": 10,
        "histories": {"train": epochs(), "distill": epochs()},
        "bill": {
            "strategy": "fpnas",
            "num_samples": 200,
            "num_steps": 80,
            "num_forwards": 323,
            "num_backwards": 200,
            "seconds": 36.1,
            "peak_memory_bytes": 2**30,
        },
        "stage_seconds": {"coarse": 16.0, "train": 19.0},
        "speed": speed(),
    }
    return ComparedRun(**{**values, **changes})


def baseline(**changes):
    row = {"run": "resnet18", "model": "t0", "top1": 0.7, "macs": 5e6}
    values = {"row": row, "pictures": "digits (ab)", "stage_seconds": {"train": 30.0}}
    return ComparedRun(**{**values, **changes})


def test_searched_runs_and_a_baseline():
    links = {"in MLflow": "http://h/#/compare-runs", "elsewhere": "javascript:alert(1)"}
    page = Page(render_comparison([baseline(), searched()], links))
    text = page.text
    assert page.open == []
    headings = "run model strategy top-1 distilled top-1 MACs"
    assert f"{headings} small t0 fpnas 50.0 % 60.0 % 2.0 M resnet18" in text
    assert "resnet18 has no searched architecture" in text
    assert "resnet18 no search" in text
    assert "fpnas 200 80 323 200 36 s 1.00 GiB" in text
    assert "small torch one processor 2 2.00 ms 3.00 ms 16,000" in text
    assert "By the clock." in text
    assert "small 16 s 19 s 35 s" in text
    assert "All were measured on digits (ab)" in text
    alts = [picture["alt"] for picture in page.all("img")]
    assert len(alts) == 4  # two of accuracy, curves, one architecture
    assert "small 50.0 % at 2.0 M, 60.0 % distilled; resnet18 70.0 % at 5.0 M" in alts[0]
    assert "in grey: ImageNet" in text
    assert [a["href"] for a in page.all("a") if "#/" in a["href"]] == ["http://h/#/compare-runs"]
    assert not [a for a in page.all("a") if a["href"].startswith("javascript")]


def test_nothing_is_loaded_from_elsewhere():
    page = Page(render_comparison([searched()], {}))
    assert all(picture["src"].startswith("data:") for picture in page.all("img"))
    assert not page.all("script")
    assert not page.all("link")


def test_what_does_not_compare_is_said():
    other = searched("other", pictures="photographs (cd)")
    noted = searched("noted", missing=("Something of the stage train is not shown: gone",))
    noted = ComparedRun(**{**vars(noted), "row": {**noted.row, "note": "resumed: train"}})
    text = Page(render_comparison([noted, other], {})).text
    assert "2 different sets of pictures" in text
    assert "noted do not compare with others: resumed: train" in text
    assert "noted : Something of the stage train is not shown: gone" in text


def test_without_epochs_and_speed():
    text = Page(render_comparison([baseline()], {})).text
    assert "No epochs have been recorded" in text
    assert "No speed has been measured" in text


def test_names_are_escaped():
    page = render_comparison([searched(EVIL, pictures=EVIL, missing=[EVIL])], {EVIL: EVIL})
    assert "<script" not in page


def test_equal_runs_give_an_equal_page():
    assert render_comparison([searched()], {}) == render_comparison([searched()], {})


def test_every_run_has_its_colour_and_one_place_in_the_legend():
    runs = {f"run {number}": {"train": epochs(), "distill": epochs()} for number in range(8)}
    figure = compared_curves(runs)
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [*runs, "from scratch", "distilled"]
    lines = figure.axes[1].get_lines()
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == len(lines) == 16
    with pytest.raises(ValueError, match="histories is empty"):
        compared_curves({})
