import base64
import dataclasses
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from fpnas.architecture import architecture_at
from fpnas.report.advice import next_steps
from fpnas.report.data import (
    DatasetSummary,
    RegisteredModel,
    ReportData,
    Snapshots,
    StageRecord,
    Teacher,
    TrainingSummary,
)
from fpnas.report.html import render_report
from fpnas.report.model_figures import TRAINING_COLUMNS
from fpnas.report.search_figures import SearchPhase
from fpnas.search.loop import HISTORY_COLUMNS
from fpnas.space import load_space

EVIL = "<script>alert('x')</script>"
SPACE = load_space("tiny").open()
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Collects tags and checks that they close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words, self.skip = [], [], [], 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def history(columns, num_rows) -> pd.DataFrame:
    rows = np.arange(1, num_rows + 1)
    values = {name: np.linspace(0.9, 0.1, num_rows) for name in columns}
    return pd.DataFrame(values | {columns[0]: rows})


def uniform(num_snapshots):
    width = max(len(c) for g in SPACE.groups for c in g.choices)
    result = np.zeros((num_snapshots, SPACE.num_groups, 5, width))
    for index, group in enumerate(SPACE.groups):
        for variable, choice in enumerate(group.choices):
            result[:, index, variable, : len(choice)] = 1 / len(choice)
    return result


def full(**changes) -> ReportData:
    stages = [
        StageRecord(
            "prepare", "succeeded", 10.0, True, artifact="s3://b/prepare/", sha256="ab" * 32
        ),
        StageRecord("coarse", "succeeded", 100.0, False, 40, 200, "s3://b/coarse/"),
        StageRecord("fine", "succeeded", 92.0, False, 20, 55),
    ]
    data = ReportData(
        run_id="run-1",
        space=SPACE,
        num_classes=3,
        profile="laptop",
        strategy="fpnas",
        seed=7,
        command="make pipeline-run SPACE=tiny",
        code_version="1a2b3c",
        stages=stages,
        architecture=architecture_at(SPACE, [[0, 0, 1, 0, 0]] * SPACE.num_groups),
        phases=[
            SearchPhase("coarse", history(HISTORY_COLUMNS, 40)),
            SearchPhase("fine", history(HISTORY_COLUMNS, 20)),
        ],
        snapshots=Snapshots(np.array([0, 40]), uniform(2), 40),
        dataset=DatasetSummary(
            "folder",
            pd.DataFrame({"weights": [5, 6, 7], "val": [1, 2, 3]}, index=["cat", "dog", EVIL]),
            pd.DataFrame({"name": [f"{EVIL}.png"], "reason": ["truncated"]}),
            {"grey": 4},
        ),
        train=TrainingSummary(0.7, 0.9, 1.25, history(TRAINING_COLUMNS, 8)),
        distill=TrainingSummary(0.75, history=history(TRAINING_COLUMNS, 8)),
        teacher=Teacher("EfficientNet-Lite0", 0.9),
        registered_model=RegisteredModel("fp-nas-t0", "3", ("champion",)),
        speed={
            "method": "By the clock.",
            "cpu": "one processor",
            "gpu": None,
            "other_cores": 0.4,
            "measurements": [
                {
                    "runtime": EVIL,
                    "device": "cpu",
                    "batch_size": batch,
                    "num_threads": 2,
                    "median_seconds": 0.002,
                    "p90_seconds": 0.003,
                    "images_per_second": 16_000.0,
                }
                for batch in (1, 32)
            ],
        },
        exported=[
            {
                "name": "model.onnx",
                "size_bytes": 3 << 20,
                "max_difference": 4.3e-06,
                "agreement": 1.0,
                "top1": 0.75,
                "num_images": 6,
            }
        ],
        links={"MLflow": "http://127.0.0.1:5000/#/runs/1", "bad": "javascript:alert(1)"},
        config={"search.num_steps": 60},
        next_steps=("Say hello.",),
    )
    return dataclasses.replace(data, **changes)


@pytest.fixture(scope="module")
def html() -> str:
    return render_report(full())


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_page_is_well_formed(html, page):
    assert html.startswith("<!doctype html>")
    assert not page.open


def test_files_and_speed(page):
    assert "model.onnx 3.00 MiB 75.0 % 100.0 % 4.3e-06" in page.text
    assert "one processor 2 2.00 ms 3.00 ms 16,000" in page.text
    assert "By the clock. Meanwhile other processes kept 0.4 cores busy." in page.text


def test_page_loads_nothing(html, page):
    assert not page.all("script")
    assert not page.all("link")
    for tag, attrs in page.tags:
        for key in ("src", "srcset", "data", "poster", "background", "action"):
            assert attrs.get(key, "data:").startswith("data:"), tag
        if "href" in attrs:
            assert tag == "a"
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_pictures_are_whole_and_load_nothing(page):
    for image in page.all("img"):
        kind, encoded = image["src"].split(",", 1)
        assert kind == "data:image/svg+xml;base64"
        root = ElementTree.fromstring(base64.b64decode(encoded))
        for element in root.iter():
            for key, value in element.attrib.items():
                if key.endswith("href"):
                    assert value.startswith(("#", "data:"))


def test_every_figure_has_an_alternative_text(page):
    texts = [image["alt"] for image in page.all("img")]
    assert len(texts) == 4
    assert all(len(text) > 40 for text in texts)


def test_everything_is_escaped(html, page):
    assert EVIL not in html
    assert EVIL in page.text
    assert f"{EVIL}.png" in page.text


def test_only_web_addresses_are_links(page):
    targets = [link["href"] for link in page.all("a") if not link["href"].startswith("#")]
    assert targets == ["http://127.0.0.1:5000/#/runs/1"]
    assert "javascript:alert(1)" in page.text


def test_links_within_the_page_lead_somewhere(page):
    names = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    inner = {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")}
    assert inner
    assert inner <= names


@pytest.mark.parametrize(
    "words",
    [
        "tiny t0",
        "top-1, distilled 75.0 % +5.0 points by the teacher",
        "3 min 22 s 1 of 3 stages found",
        "all 255 60 3 min 12 s",
        "3 classes 18 6 24",
        "4 grey",
        "teacher: EfficientNet-Lite0 90.0 %",
        "distilled minus undistilled +5.0 points",
        "s3://b/prepare/ " + "ab" * 32,
        "Registered as fp-nas-t0 version 3, alias champion.",
        "make pipeline-run SPACE=tiny seed 7 code 1a2b3c search.num_steps 60",
        "Say hello.",
    ],
)
def test_page_says(page, words):
    assert words in page.text


def test_table_of_groups_has_a_row_each(page):
    assert str(full().architecture) in page.text
    for group in range(1, 6):
        assert f" {group} " in page.text
    assert "3x3 relu none" in page.text


def test_two_renderings_are_equal(html):
    assert render_report(full()) == html


def test_page_of_a_bare_run_says_what_is_missing():
    bare = ReportData("r", SPACE, 10, "smoke", "fpnas", 0, "make", "1")
    page = Page(render_report(bare))
    assert not page.all("img")
    for sentence in (
        "No architecture has been decoded in this run.",
        "The bill of the search is not known.",
        "No search step has been recorded in this run.",
        "The probabilities over time have not been recorded in this run.",
        "There is no summary of the data in this run.",
        "No model has been trained from scratch in this run.",
        "No model has been distilled in this run.",
        "No model has been registered in this run.",
        "The stages of this run have not been recorded.",
    ):
        assert sentence in page.text


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("teacher", "The teacher is not known."),
        ("train", "No model has been trained from scratch in this run."),
        ("snapshots", "The probabilities over time have not been recorded in this run."),
    ],
)
def test_page_without_one_part_says_so(part, sentence):
    without = {
        "architecture": None,
        "phases": (),
        "snapshots": None,
        "distill": TrainingSummary(0.5),
    }
    assert sentence in Page(render_report(full(**(without | {part: None})))).text


def test_many_quarantined_pictures_are_cut_short():
    dataset = full().dataset
    many = pd.DataFrame({"name": [f"{i}.png" for i in range(250)], "reason": ["broken"] * 250})
    data = full(
        dataset=dataclasses.replace(dataset, quarantined=many),
        architecture=None,
        phases=(),
        snapshots=None,
    )
    text = Page(render_report(data)).text
    assert "199.png" in text
    assert "200.png" not in text
    assert "And 50 more" in text


def advice(**changes) -> str:
    return " ".join(next_steps(full(**changes)))


def test_advice_for_a_smoke_run():
    assert "PROFILE=laptop" in advice(profile="smoke")
    assert "PROFILE=laptop" not in advice()


def test_advice_on_the_budget():
    low = dataclasses.replace(SPACE, target_macs=1)
    high = dataclasses.replace(SPACE, target_macs=10**9)
    assert "more than the target" in advice(space=low)
    assert "of its budget unused" in advice(space=high)


def test_advice_on_distillation():
    assert "use the undistilled model" in advice(distill=TrainingSummary(0.6))
    assert "points of top-1" in advice(distill=TrainingSummary(0.6))
    assert "stronger teacher" in advice(teacher=Teacher("t", 0.5))
    assert "undistilled" not in advice()


def test_advice_is_never_empty():
    bare = ReportData("r", SPACE, 10, "paper", "fpnas", 0, "make", "1")
    assert next_steps(bare)


def test_where_the_better_model_errs():
    names = ["cat", "dog", EVIL]
    counts = pd.DataFrame([[3, 1, 0], [4, 0, 0], [0, 0, 8]], index=names, columns=names)
    distill = TrainingSummary(0.75, confusion=counts, calibration_error=0.0432)
    html = render_report(full(distill=distill))
    text = " ".join(html.split())
    assert "4.3 %" in text
    section = text[text.index("Where the better model errs") : text.index('id="model"')]
    rows = [re.sub(r"<[^>]*>", "|", row) for row in section.split("<tr>")]
    cells = [[cell for cell in row.split("|") if cell.strip()] for row in rows]
    # Weakest first, without what is always found; then the pairs that happen.
    assert [row[:3] for row in cells if len(row) >= 3 and row[0] in ("cat", "dog")] == [
        ["dog", "0.0 %", "4"],
        ["cat", "75.0 %", "4"],
        ["dog", "cat", "4"],
        ["cat", "dog", "1"],
    ]
    assert section.count("100.0 %") == 0
    # The trained model has no confusion here, and is not the better one.
    train = TrainingSummary(0.9)
    assert "Where the better model errs" not in render_report(full(train=train, distill=distill))
