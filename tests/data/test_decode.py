"""Stored pictures are decoded to what Pillow gives, at the scale that the target asks for."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fpnas.data.decode import Target, resize

from .conftest import encode, noise


def smooth(width, height):
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([columns, rows, (columns + rows) / 2], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def test_the_centre_or_all_of_a_picture_is_made_a_square():
    left_black = Image.new("RGB", (64, 32), "white")
    left_black.paste("black", (0, 0, 10, 32))
    data = encode(left_black, "PNG")
    assert Target(8, None).decode(data).shape == (8, 8, 3)
    assert Target(8, None).decode(data)[:, 0].max() < 20
    assert Target(8, 1.0).decode(data).min() == 255


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_a_jpeg_gives_pillows_pixels_to_the_bit(subsampling):
    data = encode(noise(1, 61, 45), "JPEG", quality=90, subsampling=subsampling)
    pixels = Target(45, None, resize=False).decode(data)
    np.testing.assert_array_equal(pixels, np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("size", [13, 32, 45, 90])
def test_resizing_is_pillows_up_to_rounding(size):
    image = noise(2, 61, 45)
    expected = image.resize((size, size), Image.Resampling.BILINEAR)
    difference = resize(np.array(image), size).astype(int) - np.asarray(expected).astype(int)
    assert abs(difference).max() <= 1


@settings(max_examples=60, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    size=st.integers(1, 40),
    crop=st.sampled_from([None, 1.0, 0.875]),
    resized=st.booleans(),
    file_format=st.sampled_from(["JPEG", "PNG", "WEBP"]),
)
def test_the_shape_is_known_beforehand(width, height, size, crop, resized, file_format):
    data = encode(Image.new("RGB", (width, height), "red"), file_format)
    target = Target(size, crop, resize=resized)
    pixels = target.decode(data)
    assert pixels.shape == (*target.shape(width, height), 3)
    assert pixels.dtype == np.uint8
    if not resized:
        # Reduced, but not below the size, unless there is less.
        least = min(size, round(min(width, height) * (crop or 1.0)))
        assert min(pixels.shape[:2]) >= max(least - 1, 1)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("size", "reduced"), [(129, 256), (128, 128), (65, 128), (64, 64), (20, 32)]
)
def test_a_scale_that_is_enough_is_close_to_a_resize(file_format, size, reduced):
    image = smooth(256, 256)
    options = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {}
    data = encode(image, file_format, **options)
    pixels = Target(size, None, resize=False).decode(data)
    assert pixels.shape[0] == reduced
    expected = image.resize((reduced, reduced), Image.Resampling.BOX)
    assert abs(pixels.astype(int) - np.asarray(expected).astype(int)).max() <= 4
    resized = Target(size // 2, None).decode(data)
    expected = image.resize((size // 2, size // 2), Image.Resampling.BILINEAR)
    assert abs(resized.astype(int) - np.asarray(expected).astype(int)).max() <= 4


def test_what_only_pillow_forgives_is_decoded():
    data = encode(noise(3, 40, 40), "JPEG")
    # An entropy-coded segment with garbage before the end of the picture.
    odd = data[:-2] + b"\x12\x34" + data[-2:]
    whole = Target(20, None).decode(data)
    np.testing.assert_array_equal(Target(20, None).decode(odd), whole)


def test_damaged_metadata_says_nothing():
    damaged = encode(noise(0), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    # A warning would be an error here.
    np.testing.assert_array_equal(
        Target(10, None).decode(damaged), Target(10, None).decode(encode(noise(0)))
    )


@pytest.mark.parametrize("cut", [3, 5, 21, 40, -20])
def test_a_truncated_jpeg_is_an_os_error(cut):
    with pytest.raises(OSError, match=r"(?i)identify|truncated|broken"):
        Target(10, None).decode(encode(noise(0))[:cut])
