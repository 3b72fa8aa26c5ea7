"""What a model depends on: what changes the fingerprint, what does not, and how it is told."""

from __future__ import annotations

import json
import os

import pytest

from fpnas.stages import fingerprint as module
from fpnas.stages.fingerprint import PARTS, Fingerprint, fingerprint_for
from fpnas.storage import connect
from pipelines.plan import Request, make_plan


def made(*overrides, **request):
    plan = make_plan(Request(overrides=overrides, **request))
    return fingerprint_for(plan.configs, connect({}))


@pytest.fixture(scope="module")
def base():
    return made()


def changed(base, other):
    return [name for name in PARTS if base.digests[name] != other.digests[name]]


def test_equal_requests_have_equal_fingerprints(base):
    assert made() == base
    assert made().differences(base) == []
    assert len(base.digest) == 64


@pytest.mark.parametrize(
    "override",
    [
        "train.runtime.device=cpu",
        "coarse.runtime.checkpoint_seconds=1",
        "resources.train.memory=64Gi",
        "register.name=other",
        "register.export=false",
    ],
)
def test_where_a_model_is_made_and_what_it_is_called_do_not_count(base, override):
    assert made(override).digest == base.digest


@pytest.mark.parametrize(
    ("request_", "part", "lines"),
    [
        ({"overrides": ("recipe.epochs=26",)}, "recipe", ["recipe.epochs: 25 -> 26"]),
        ({"overrides": ("fine.batch_size=8",)}, "recipe", ["fine.batch_size: 32 -> 8"]),
        ({"overrides": ("train.seed=3",)}, "recipe", ["train.seed: (none) -> 3"]),
        ({"seed": 4}, "seed", ["seed: 0 -> 4"]),
        ({"model": "t1"}, "space", None),
        (
            {"strategy": "parsec"},
            "recipe",
            ['coarse.strategy: "fpnas" -> "parsec"', 'fine.strategy: "fpnas" -> "parsec"'],
        ),
    ],
)
def test_what_changed_is_named_as_set_names_it(base, request_, part, lines):
    other = fingerprint_for(make_plan(Request(**request_)).configs, connect({}))
    assert changed(base, other) == [part]
    assert other.digest != base.digest
    found = other.differences(base)
    assert found == lines if lines else all(line.startswith("space.") for line in found)


def test_pictures_count_by_what_is_there_and_not_by_their_place(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "a").mkdir(parents=True)
        picture = folder / "a" / "1.png"
        picture.write_bytes(b"x")
        os.utime(picture, ns=(10**18, 10**18))
    one, other = (made(data=str(folder)) for folder in (first, second))
    assert one.digest == other.digest
    (second / "a" / "2.png").write_bytes(b"x")
    more = made(data=str(second))
    assert changed(one, more) == ["data"]
    assert more.differences(one)[0].startswith("data.fingerprint: ")


def test_the_file_of_a_teacher_counts(tmp_path):
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(b"1")
    before = made(f"distill.teacher=local:{path}")
    path.write_bytes(b"2")
    assert changed(before, made(f"distill.teacher=local:{path}")) == ["teacher"]


def test_the_code_of_a_stage_counts_by_name(base, monkeypatch):
    from fpnas.stages import base as stages

    monkeypatch.setattr(stages, "code_version", lambda name: name.removesuffix(".train"))
    before = made()
    monkeypatch.setattr(stages, "code_version", lambda name: name)
    after = made()
    assert changed(before, after) == ["code"]
    assert after.differences(before) == ["code: that of train"]


def test_tags_give_the_fingerprint_back(base):
    tags = base.tags()
    assert tags["fingerprint"] == base.digest
    assert tags[base.mark] == "yes"
    assert {f"fingerprint_{name}" for name in PARTS} < tags.keys()
    back = Fingerprint.from_tags(tags)
    assert back.digest == base.digest
    assert made("recipe.epochs=26").differences(back) == ["recipe.epochs: 25 -> 26"]


def test_what_was_made_elsewhere_has_none(base):
    assert Fingerprint.from_tags({"top1": "0.5"}) is None
    assert Fingerprint.from_tags({**base.tags(), "fingerprint_details": "{"}) is None


def test_details_too_long_for_a_tag_leave_the_parts(base, monkeypatch):
    monkeypatch.setattr(module, "_MAX_DETAILS", 10)
    back = Fingerprint.from_tags(base.tags())
    assert back.details is None
    assert made("recipe.epochs=26").differences(back) == ["recipe: changed"]


def test_a_long_value_is_cut(base):
    lines = made("space.input_size=48").differences(base)
    assert "space.input_size: 32 -> 48" in lines
    assert all(len(line) < 200 for line in lines)


def test_no_secret_is_in_the_tags(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:hunter2@example.com")
    assert "hunter2" not in json.dumps(made().tags())
