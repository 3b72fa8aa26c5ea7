"""RandAugment and random erasing: torchvision's operations, our draws."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, autoaugment, v2

from fpnas.data.augment import AUGMENTATIONS, augment, distort_images
from fpnas.data.distortions import (
    MAX_MAGNITUDE,
    OPERATIONS,
    RAND_AUGMENT_OPERATIONS,
    Step,
    auto_augment,
    distort,
    distort_batch,
    erase_batch,
    erased_box,
    rand_augment,
)

FILL = (90, 60, 30)
SIZE = 32


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def draws_for(name, side):
    """The draws that choose an operation and its sign."""
    return [(list(RAND_AUGMENT_OPERATIONS).index(name) + 0.5) / len(RAND_AUGMENT_OPERATIONS), side]


def distorted(draws, magnitude):
    return distort(picture(), rand_augment(draws, magnitude), FILL)


def test_the_operations_are_those_of_torchvision():
    assert set(RAND_AUGMENT_OPERATIONS) == set(v2.RandAugment._AUGMENTATION_SPACE)


@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("side", [0.2, 0.8])
@pytest.mark.parametrize("name", RAND_AUGMENT_OPERATIONS)
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
    found = distorted(draws_for(name, side), magnitude)
    assert np.array_equal(found, np.asarray(expected))


def test_operations_follow_one_another():
    first, second = draws_for("Rotate", 0.1), draws_for("Posterize", 0.1)
    both = distorted([*first, *second], 15)
    one = distort(distorted(first, 15), rand_augment(second, 15), FILL)
    assert np.array_equal(both, one)
    assert np.array_equal(distorted([], 15), picture())


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
    found = distort(picture(), auto_augment(policy_draws(number, (True, True)), name), FILL)
    # Its strengths are in single precision, so that a value on the edge may be rounded otherwise.
    assert np.abs(found.astype(int) - np.asarray(image)).max() <= 1


def test_an_operation_of_a_policy_happens_with_its_probability():
    # The first pair for ImageNet: Posterize with 0.4, Rotate with 0.6.
    for draw, happens in ((0.39, True), (0.41, False)):
        draws = [0.01, draw, 0.2, 1 - 1e-9, 0.2]
        assert ("Posterize" in [step.name for step in auto_augment(draws, "imagenet")]) == happens


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
    drawn = [
        rand_augment([draw, 0.0], 9)[0].name for draw in np.linspace(0, 1, 1400, endpoint=False)
    ]
    assert {drawn.count(name) for name in RAND_AUGMENT_OPERATIONS} == {100}


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


def as_images(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def as_pictures(images):
    return images.permute(0, 2, 3, 1).numpy()


def smooth(count):
    """Pictures without noise, in which a neighbouring place has a similar colour."""
    rows, columns = np.mgrid[:SIZE, :SIZE] / SIZE
    shift = np.arange(count)[:, None, None]
    channels = [np.sin(3 * rows + shift), np.cos(4 * columns - shift), np.sin(rows * columns * 5)]
    stacked = np.stack(np.broadcast_arrays(*channels), axis=-1)
    return (127.5 + 120 * stacked).round().astype(np.uint8)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_the_same_to_a_batch(name, sign):
    pictures, step = smooth(6), Step(name, 0.5, sign)
    # Two pictures take another step, so that places matter.
    steps = [[step], [], [step], [Step("Invert", 0.0, 1.0)], [step], [step]]
    expected = np.stack([distort(*pair, FILL) for pair in zip(pictures, steps, strict=True)])
    found = as_pictures(distort_batch(as_images(pictures), steps, FILL)).astype(int)
    difference = np.abs(found - expected)
    # A place on the edge between two may be rounded to either.
    assert np.mean(difference <= 2) > 0.97
    assert difference.mean() < 1.5
    assert np.array_equal(found[[1, 3]], expected[[1, 3]])
    assert name == "Identity" or (found[0] != pictures[0]).any()


def test_each_picture_of_a_batch_takes_its_own_steps_in_their_order():
    solarize, invert = Step("Solarize", 0.5, 1.0), Step("Invert", 0.0, 1.0)
    posterize = Step("Posterize", 1.0, 1.0)
    steps = [[solarize, posterize], [posterize, invert], [], [invert], [invert, posterize]]
    pictures, _ = many(5)
    expected = [distort(*pair, FILL) for pair in zip(pictures, steps, strict=True)]
    images = as_images(pictures)
    found = distort_batch(images, steps, FILL)
    assert np.array_equal(as_pictures(found), np.stack(expected))
    assert np.array_equal(as_pictures(images), pictures)  # not written to
    same = [[], [Step("Identity", 0.3, 1.0)], [], [], []]
    assert torch.equal(distort_batch(images, same, FILL), images)


def test_a_batch_takes_a_step_once_whatever_else_was_drawn(monkeypatch):
    calls = []
    for name, operation in OPERATIONS.items():

        def counting(f, image, *arguments, name=name, operation=operation):
            calls.append(name)
            return operation(f, image, *arguments)

        monkeypatch.setitem(OPERATIONS, name, counting)
    drawn = np.random.default_rng(0).random((500, 2)).tolist()
    pictures, _ = many(500)
    distort_batch(as_images(pictures), [rand_augment(draws, 9) for draws in drawn], FILL)
    without = {"Identity": 0, "Posterize": 1, "Solarize": 1, "AutoContrast": 1, "Equalize": 1}
    expected = {name: without.get(name, 2) for name in RAND_AUGMENT_OPERATIONS}
    assert {name: calls.count(name) for name in expected} == expected


def test_boxes_of_a_batch_are_those_of_its_pictures():
    pictures, _ = many(3)
    box = (slice(3, 9), slice(20, 32))
    found = as_pictures(erase_batch(as_images(pictures), [None, box, None], FILL))
    pictures[1][box] = FILL
    assert np.array_equal(found, pictures)


@pytest.mark.parametrize(
    "options", [{"rand_augment_ops": 2}, {"auto_augment": "imagenet"}, {}], ids=str
)
def test_a_batch_is_distorted_as_its_pictures_would_be(options):
    augmentation = replace(AUGMENTATIONS["crop_flip"], random_erasing=0.4, fill=FILL, **options)
    rows = np.arange(100)
    common = {"seed": 3, "epoch": 1}
    arguments = (smooth(100), rows, augmentation)
    one_by_one = augment(*arguments, input_size=SIZE, **common)
    plain = augment(*arguments, input_size=SIZE, distorted=False, **common)
    found = as_pictures(distort_images(as_images(plain), rows, augmentation, **common))
    difference = np.abs(found.astype(int) - one_by_one)
    # Differences grow where a second operation, like Equalize, follows.
    assert np.mean(difference <= 4) > 0.95
    assert (one_by_one != plain).any(axis=(1, 2, 3)).mean() > 0.3
