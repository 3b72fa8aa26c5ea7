"""RandAugment and random erasing: torchvision's operations, our draws."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment, v2

from fpnas.data.augment import AUGMENTATIONS, augment
from fpnas.data.distortions import (
    MAX_MAGNITUDE,
    OPERATIONS,
    auto_augment,
    erased_box,
    rand_augment,
)

FILL = (90, 60, 30)
SIZE = 32


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def draws_for(name, side):
    """The draws that choose an operation and its sign."""
    return [(list(OPERATIONS).index(name) + 0.5) / len(OPERATIONS), side]


def test_the_operations_are_those_of_torchvision():
    assert set(OPERATIONS) == set(v2.RandAugment._AUGMENTATION_SPACE)


@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("side", [0.2, 0.8])
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_does_what_torchvisions_does(name, side, magnitude):
    reference = v2.RandAugment(num_ops=1, interpolation=InterpolationMode.NEAREST)
    levels, signed = reference._AUGMENTATION_SPACE[name]
    values = levels(MAX_MAGNITUDE + 1, SIZE, SIZE)
    value = float(values[magnitude]) if values is not None else 0.0
    if signed and side >= 0.5:
        value = -value
    image = Image.fromarray(picture())
    expected = reference._apply_image_or_video_transform(
        image, name, value, interpolation=InterpolationMode.NEAREST, fill={Image.Image: list(FILL)}
    )
    found = rand_augment(picture(), draws_for(name, side), magnitude, FILL)
    assert np.array_equal(found, np.asarray(expected))


def test_operations_follow_one_another():
    first, second = draws_for("Rotate", 0.1), draws_for("Posterize", 0.1)
    both = rand_augment(picture(), [*first, *second], 15, FILL)
    one = rand_augment(rand_augment(picture(), first, 15, FILL), second, 15, FILL)
    assert np.array_equal(both, one)
    assert np.array_equal(rand_augment(picture(), [], 15, FILL), picture())


POLICIES = [policy.value for policy in autoaugment.AutoAugmentPolicy]


def policy_draws(number, happen, sides=(0.2, 0.8)):
    """The draws that choose a pair of a policy, and whether each of its operations happens."""
    first, second = (0.0 if yes else 1 - 1e-9 for yes in happen)
    return [(number + 0.5) / 25, first, sides[0], second, sides[1]]


@pytest.mark.parametrize("number", range(25))
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_does_what_torchvisions_does(name, number):
    policy = autoaugment.AutoAugmentPolicy(name)
    reference = v2.AutoAugment(policy, interpolation=InterpolationMode.NEAREST)
    image = Image.fromarray(picture())
    for (operation, chance, level), sign in zip(reference._policies[number], (1, -1), strict=True):
        levels, signed = reference._AUGMENTATION_SPACE[operation]
        values = levels(10, SIZE, SIZE)
        value = float(values[level]) if values is not None else 0.0
        if chance > 0:
            image = reference._apply_image_or_video_transform(
                image,
                operation,
                sign * value if signed else value,
                interpolation=InterpolationMode.NEAREST,
                fill={Image.Image: list(FILL)},
            )
    found = auto_augment(picture(), policy_draws(number, (True, True)), name, FILL)
    # Its strengths are in single precision, so that a value on the edge may be rounded otherwise.
    assert np.abs(found.astype(int) - np.asarray(image)).max() <= 1


def test_an_operation_of_a_policy_happens_with_its_probability():
    # The first pair for ImageNet: Posterize with 0.4, Rotate with 0.6.
    for draw, happens in ((0.39, True), (0.41, False)):
        draws = [0.01, draw, 0.2, 1 - 1e-9, 0.2]
        assert np.array_equal(auto_augment(picture(), draws, "imagenet", FILL), picture()) != (
            happens
        )


def test_auto_augment_changes_many_pictures_and_only_by_seed_epoch_and_row():
    augmentation = replace(AUGMENTATIONS["none"], auto_augment="imagenet", fill=FILL)
    found, plain = changed(augmentation)
    assert (found != plain).any(axis=(1, 2, 3)).mean() > 0.6
    again, _ = changed(augmentation)
    assert np.array_equal(found, again)
    pictures, rows = many()
    part = augment(pictures[7:9], rows[7:9], augmentation, input_size=SIZE, seed=3, epoch=1)
    assert np.array_equal(part, found[7:9])


def test_every_operation_is_drawn_as_often():
    which = {int(draw * len(OPERATIONS)) for draw in np.linspace(0, 1, 1000, endpoint=False)}
    assert which == set(range(len(OPERATIONS)))


def test_the_erased_box_has_the_area_that_was_drawn():
    draws = np.random.default_rng(0).random((2000, 4))
    areas, tops = [], []
    for one in draws.tolist():
        rows, columns = erased_box(one, 64)
        assert 0 <= rows.start < rows.stop <= 64
        assert 0 <= columns.start < columns.stop <= 64
        areas.append((rows.stop - rows.start) * (columns.stop - columns.start) / 64**2)
        tops.append((rows.start, rows.stop))
    assert np.mean(areas) == pytest.approx((0.02 + 0.33) / 2, rel=0.05)
    assert min(start for start, _ in tops) == 0
    assert max(stop for _, stop in tops) == 64


def many(count=200):
    return np.stack([picture(i) for i in range(count)]), np.arange(count)


def changed(augmentation, **options):
    pictures, rows = many()
    options = {"input_size": SIZE, "seed": 3, "epoch": 1, **options}
    found = augment(pictures, rows, augmentation, **options)
    plain = augment(pictures, rows, AUGMENTATIONS["none"], **options)
    return found, plain


def test_erasing_takes_its_share_of_the_pictures_and_fills_a_box():
    found, plain = changed(replace(AUGMENTATIONS["none"], random_erasing=0.3, fill=FILL))
    differs = (found != plain).any(axis=(1, 2, 3))
    assert differs.mean() == pytest.approx(0.3, abs=0.1)
    assert (found[found != plain].reshape(-1) <= max(FILL)).all()
    index = int(np.flatnonzero(differs)[0])
    assert (found[index] == FILL).all(axis=2).sum() >= 0.015 * SIZE**2


def test_rand_augment_changes_most_pictures_and_more_with_its_magnitude():
    distances = []
    for magnitude in (0, 6, 24):
        augmentation = replace(
            AUGMENTATIONS["none"], rand_augment_ops=2, rand_augment_magnitude=magnitude
        )
        found, plain = changed(augmentation)
        distances.append(np.abs(found.astype(float) - plain).mean())
    assert distances == sorted(distances)
    assert distances[2] > 2 * distances[0]


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_what_happens_to_a_picture_depends_on_seed_epoch_and_row_alone(name):
    augmentation = replace(AUGMENTATIONS[name], rand_augment_ops=2, random_erasing=0.5, fill=FILL)
    pictures, rows = many(20)
    if AUGMENTATIONS[name].working_scale != 1:
        pictures = np.repeat(pictures, 2, axis=1).repeat(2, axis=2)[:, :48, :48]
    options = {"input_size": SIZE, "seed": 3}
    whole = augment(pictures, rows, augmentation, epoch=1, **options)
    part = augment(pictures[7:9], rows[7:9], augmentation, epoch=1, **options)
    assert np.array_equal(whole[7:9], part)
    assert not np.array_equal(whole, augment(pictures, rows, augmentation, epoch=2, **options))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_distortions_leave_crop_and_flip_as_they_were(name):
    pictures, rows = many(20)
    if AUGMENTATIONS[name].working_scale != 1:
        pictures = np.repeat(pictures, 2, axis=1).repeat(2, axis=2)[:, :48, :48]
    options = {"input_size": SIZE, "seed": 3, "epoch": 1}
    with_erasing = replace(AUGMENTATIONS[name], random_erasing=0.2)
    found = augment(pictures, rows, with_erasing, **options)
    plain = augment(pictures, rows, AUGMENTATIONS[name], **options)
    same = (found == plain).all(axis=(1, 2, 3))
    assert 0.5 < same.mean() < 1
