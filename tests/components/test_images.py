"""Which image runs a stage, and what it is called."""

import importlib

import pytest

from components.images import BY_DIGEST, FAMILIES, TRACKING, code_digest, image
from fpnas import __version__
from fpnas.errors import InputError
from fpnas.stages.base import ALL_STAGES

DIGESTS = {name: f"sha256:{str(i) * 64}" for i, name in enumerate((*FAMILIES, TRACKING))}
PINS = [f"fpnas-{name}=registry.example/team/fpnas-{name}@{d}" for name, d in DIGESTS.items()]


def test_every_stage_is_in_one_family():
    assert sorted(stage for stages in FAMILIES.values() for stage in stages) == sorted(ALL_STAGES)


@pytest.mark.parametrize(("family", "stages"), FAMILIES.items())
def test_the_components_name_the_image_of_their_family(family, stages):
    for stage in stages:
        component = getattr(importlib.import_module(f"components.{stage}.component"), stage)
        implementation = component.component_spec.implementation.container
        assert implementation.image == image(family)


def test_images_are_named_by_prefix_and_version():
    assert image("train", {}) == image("train", {"FPNAS_IMAGE_PREFIX": ""})
    assert image("train", {}) == f"fpnas-train:{__version__}"
    prefix = {"FPNAS_IMAGE_PREFIX": "registry.example:5000/team/fpnas"}
    assert image("train", prefix) == f"registry.example:5000/team/fpnas-train:{__version__}"


@pytest.mark.parametrize("between", [" ", "\n"])
def test_pinned_images_are_named_by_digest(between):
    environ = {"FPNAS_IMAGES": between.join(PINS), "FPNAS_IMAGE_PREFIX": "ignored"}
    for family, digest in DIGESTS.items():
        assert image(family, environ) == f"registry.example/team/fpnas-{family}@{digest}"
        assert BY_DIGEST.fullmatch(image(family, environ))


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        (PINS[:1], "does not name fpnas-train"),
        ([*PINS, "fpnas-trian=x@sha256:" + "0" * 64], "names no image .* Legal: fpnas-decode"),
        ([*PINS[:3], "fpnas-train=registry.example/fpnas-train:0.1.0"], "not an image by digest"),
        ([*PINS, PINS[3].replace("3" * 64, "4" * 64)], "names fpnas-train a second time"),
        (["registry.example/fpnas-train@sha256:" + "0" * 64], "names no image"),
    ],
)
def test_bad_pins_are_explained(pins, message):
    with pytest.raises(InputError, match=message) as caught:
        image("train", {"FPNAS_IMAGES": " ".join(pins)})
    assert caught.value.field == "FPNAS_IMAGES"


def test_the_code_digest_follows_the_stages_of_the_family(monkeypatch):
    before = {family: code_digest(family) for family in FAMILIES}
    assert len(set(before.values())) == len(FAMILIES)
    changed = lambda module: "other" if module == "fpnas.stages.fine" else module  # noqa: E731
    monkeypatch.setattr("components.images.code_version", lambda module: module)
    same = {family: code_digest(family) for family in FAMILIES}
    monkeypatch.setattr("components.images.code_version", changed)
    assert [f for f in FAMILIES if code_digest(f) != same[f]] == ["search"]
