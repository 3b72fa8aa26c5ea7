"""What a teacher says: looked at once and kept, or again in every step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fpnas.errors import FpnasError
from fpnas.stages.teaching import (
    Lesson,
    can_be_kept,
    kept_lesson,
    look_at,
    num_views,
    renewed,
    teach,
)
from fpnas.stages.training import Workbench
from fpnas.stages.training_config import TrainingConfig
from fpnas.training.loop import label_loss
from fpnas.training.recipe import Recipe
from fpnas.training.teacher import Teacher
from tests.storage.conftest import endpoint, environ, store  # noqa: F401

from .folder_stage import ARCHITECTURE, make_pictures

SIZE = 24


class Colours(nn.Module):
    """Knows blue (class 0 of the folder's alphabet) and red by their means, and left from right."""

    def __init__(self, sign=1.0):
        super().__init__()
        self.last = nn.Linear(4, 3, bias=False)
        weight = torch.tensor([[-1.0, 0, 1, 0], [1.0, 0, -1, 0], [0, 0, 0, 9.0]])
        self.last.weight = nn.Parameter(sign * weight, requires_grad=False)

    def forward(self, images):
        means = images.mean(dim=(2, 3))
        sides = images[..., : images.shape[3] // 2].mean(dim=(1, 2, 3))
        return self.last(torch.cat([means, sides[:, None]], dim=1))


def colours(sign=1.0):
    return Teacher("colours", Colours(sign).eval(), SIZE, (0.5,) * 3, (0.25,) * 3, [0, 1])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def bench(pictures):
    return make_bench(pictures)


def make_bench(pictures, **recipe):
    from fpnas.data.dataset import Dataset

    options = {"epochs": 2, "batch_size": 16, "augmentation": "crop_flip", **recipe}
    config = TrainingConfig(recipe=Recipe(**options))
    return Workbench(Dataset(lambda name: pictures / name), ARCHITECTURE, "cpu", config)


CONTEXT = SimpleNamespace(progress=lambda *_: None)


def test_a_teacher_looks_at_the_whole_picture_and_its_mirror_image(bench):
    teacher = colours()
    look = lambda images: teacher.network(teacher.prepare(images))  # noqa: E731
    said, labels = look_at(CONTEXT, bench, look, "val", SIZE, 2)
    assert said.shape == (len(labels), 2, 3)
    # Only the third output tells left from right.
    torch.testing.assert_close(said[:, 0, :2], said[:, 1, :2])
    assert (said[:, 0, 2] - said[:, 1, 2]).abs().max() > 0.01
    assert num_views(bench) == 2


@pytest.mark.parametrize("fitted", [False, True])
def test_what_is_taught(bench, fitted):
    lesson, look = teach(CONTEXT, bench, colours(), SIZE, fitted=fitted)
    table = bench.dataset.split("train")
    assert lesson.logits.shape == (len(table), 2)
    assert lesson.logits.dtype == torch.float16
    right = lesson.logits.argmax(1).numpy() == table["class_index"].to_numpy()
    assert right.mean() > 0.97
    assert lesson.top1 > 0.97
    assert lesson.macs == 3 * 4
    assert lesson.details == {
        "input_size": SIZE,
        "views": 2,
        "head": "fitted" if fitted else "own",
    }
    assert look(torch.zeros(5, 3, SIZE, SIZE, dtype=torch.uint8)).shape == (5, 2)


def test_a_teacher_that_knows_no_more_than_chance_is_an_error(bench):
    with pytest.raises(FpnasError, match="the teacher colours is right about"):
        teach(CONTEXT, bench, colours(sign=-1.0), SIZE, fitted=False)
    # Its features are as good as ever.
    lesson, _ = teach(CONTEXT, bench, colours(sign=-1.0), SIZE, fitted=True)
    assert lesson.top1 > 0.97


@pytest.mark.parametrize(
    ("recipe", "kept"),
    [
        ({}, True),
        ({"augmentation": "none"}, True),
        ({"mixup": 0.2}, True),
        ({"augmentation": "imagenet"}, False),
        ({"rand_augment_ops": 1}, False),
        ({"auto_augment": "imagenet"}, False),
        ({"random_erasing": 0.1}, False),
    ],
)
def test_only_flips_and_shifts_allow_to_look_once(pictures, recipe, kept):
    assert can_be_kept(make_bench(pictures, **recipe)) is kept


def test_a_lesson_is_kept_and_found_by_what_it_depends_on(bench, store):
    dataset = SimpleNamespace(uri="s3://b/d", digest="0" * 64)
    context = SimpleNamespace(
        store=store, inputs={"dataset": dataset}, tracking=SimpleNamespace(set_tags=lambda _: None)
    )
    made = []

    def make():
        made.append(1)
        logits = torch.randn(10, 2, generator=torch.Generator().manual_seed(len(made))).half()
        return Lesson(logits, 0.75, 12, {"views": 1})

    first = kept_lesson(context, bench, {"teacher": "t", "size": 24}, make)
    again = kept_lesson(context, bench, {"size": 24, "teacher": "t"}, make)
    assert len(made) == 1
    assert torch.equal(first.logits, again.logits)
    assert (again.top1, again.macs, again.details) == (0.75, 12, {"views": 1})
    other = kept_lesson(context, bench, {"teacher": "t", "size": 32}, make)
    assert len(made) == 2
    assert not torch.equal(other.logits, first.logits)
    dataset.digest = "1" * 64
    kept_lesson(context, bench, {"teacher": "t", "size": 24}, make)
    assert len(made) == 3


def test_a_teacher_sees_what_the_student_sees(pictures):
    bench = make_bench(pictures, augmentation="imagenet")
    lesson, look = teach(CONTEXT, bench, colours(), SIZE, fitted=False, once=False)
    before = lesson.logits.clone()
    assert before.shape == (len(bench.dataset.split("train")), 2)
    assert before.abs().max() == 0
    lesson.look, lesson.input_size = look, SIZE
    recipe = bench.config.recipe
    trainer = bench.trainer(bench.network(ARCHITECTURE, 0), recipe, label_loss(recipe))
    batches = renewed(trainer.batches, lesson)
    images, _, rows = next(iter(batches))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (bench.dataset.mean, bench.dataset.std))
    seen = 255 * (images * std + mean)
    shown = nn.functional.interpolate(seen, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    expected = colours().logits(shown.round().clamp(0, 255).to(torch.uint8))
    told = lesson.logits[rows].float()
    torch.testing.assert_close(told, expected, rtol=0, atol=0.02)
    untouched = torch.ones(len(before), dtype=torch.bool)
    untouched[rows] = False
    assert torch.equal(lesson.logits[untouched], before[untouched])
    assert not torch.equal(lesson.logits[rows], before[rows])
    assert len(batches) == len(trainer.batches)
