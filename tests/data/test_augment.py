"""Augmentation depends on (seed, epoch, row) alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpnas.data.augment import (
    AUGMENTATIONS,
    Augmentation,
    augment,
    decoding_target,
    default_augmentation,
    get_augmentation,
    normalize,
    uniforms,
)
from fpnas.errors import InputError


def pictures(count, size):
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 1000), split=st.integers(1, 15))
def test_draws_do_not_depend_on_the_batch(seed, epoch, split):
    rows = np.arange(100, 116)
    whole = uniforms(seed, epoch, rows, 5)
    parts = [uniforms(seed, epoch, part, 5) for part in (rows[:split], rows[split:])]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert ((whole >= 0) & (whole < 1)).all()
    assert len(np.unique(whole)) == whole.size
    assert not np.array_equal(whole, uniforms(seed, epoch + 1, rows, 5))
    assert not np.array_equal(whole, uniforms(seed + 1, epoch, rows, 5))


def test_draws_are_uniform_and_independent():
    draws = uniforms(1, 2, np.arange(20000), 5)
    # Standard errors: 0.002 for the means, 0.007 for the correlations.
    np.testing.assert_allclose(draws.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(np.corrcoef(draws.T), np.eye(5), atol=0.03)
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    assert abs(neighbours) < 0.03


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_each_preset_gives_inputs_that_only_depend_on_the_row(name):
    preset = get_augmentation(name)
    size = decoding_target(preset, 16, training=True).size
    rows = np.array([7, 3, 11, 5])
    images = pictures(4, size)
    whole = augment(images, rows, preset, input_size=16, seed=1, epoch=2)
    for i in range(4):
        part = slice(i, i + 1)
        alone = augment(images[part], rows[part], preset, input_size=16, seed=1, epoch=2)
        np.testing.assert_array_equal(whole[i], alone[0])
    other = augment(images, rows, preset, input_size=16, seed=1, epoch=3)
    assert np.array_equal(whole, other) == (name == "none")


def test_a_crop_is_a_window_of_the_padded_picture_mirrored_or_not():
    images, rows = pictures(64, 8), np.arange(64)
    result = augment(images, rows, get_augmentation("crop_flip"), input_size=8, seed=0, epoch=0)
    draws = uniforms(0, 0, rows, 5)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for i in range(64):
        top, left = int(draws[i, 0] * 3), int(draws[i, 1] * 3)
        window = padded[i, top : top + 8, left : left + 8]
        expected = window[:, ::-1] if draws[i, 4] < 0.5 else window
        np.testing.assert_array_equal(result[i], expected)
    assert 16 < (draws[:, 4] < 0.5).sum() < 48


def test_digits_are_never_mirrored():
    assert default_augmentation("digits", 32) == "crop"
    assert not get_augmentation("crop").flip
    assert default_augmentation("folder", 32) == "crop_flip"
    assert default_augmentation("folder", 128) == "imagenet"


def test_a_resized_crop_of_the_whole_is_a_plain_resize():
    whole = Augmentation(min_area=0.999999, max_aspect=1.0, working_scale=1.0)
    images = pictures(2, 16)
    result = augment(images, np.arange(2), whole, input_size=16, seed=0, epoch=0)
    assert abs(result.astype(int) - images.astype(int)).max() <= 1


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (1, 90)])
def test_a_resized_crop_has_the_drawn_area_and_aspect_and_stays_inside(shape):
    """Pixels say where they are, so the corners of a result tell which crop it is."""
    height, width = shape
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.stack([rows * 4, columns * 2, rows * 0], axis=-1).astype(np.uint8)
    preset = Augmentation(min_area=0.25, max_aspect=4 / 3)
    result = augment(
        [picture] * 200, np.arange(200), preset, input_size=16, seed=0, epoch=0
    ).astype(float)
    heights = (result[:, -1, 0, 0] - result[:, 0, 0, 0]) / 4 * 16 / 15
    widths = (result[:, 0, -1, 1] - result[:, 0, 0, 1]) / 2 * 16 / 15
    if height == 1:
        # What is longer than the picture is cut to it.
        assert result[:, :, :, 0].max() == 0
        return
    areas = heights * widths / (height * width)
    assert 0.2 < areas.min() < 0.32
    assert 0.85 < areas.max() < 1.05
    assert (widths / heights).min() > 3 / 4 - 0.15
    assert (widths / heights).max() < 4 / 3 + 0.15
    assert len(np.unique(result[:, 0, 0, :2], axis=0)) > 100


def test_evaluation_resizes_and_a_resized_crop_does_not():
    preset = get_augmentation("imagenet")
    training = decoding_target(preset, 32, training=True)
    assert (training.size, training.crop, training.resize) == (48, 1.0, False)
    evaluation = decoding_target(preset, 32, training=False)
    assert (evaluation.size, evaluation.crop, evaluation.resize) == (32, 0.875, True)


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="pictures are 9 px"):
        augment(
            pictures(1, 9), np.arange(1), get_augmentation("crop"), input_size=8, seed=0, epoch=0
        )
    with pytest.raises(InputError, match="did you mean crop"):
        get_augmentation("cropflip")


def test_normalize():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 4, 4)
    result = normalize(images, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result[:, :, 0, 0], torch.tensor([[-1.0, -1, 0], [1, 3, 1]]))
