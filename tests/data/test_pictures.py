"""Every sort of picture is stored as upright 8-bit RGB, or refused with a reason."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from fpnas.data.pictures import PictureError, prepare_picture

from .conftest import encode, noise


def pixels(picture):
    with Image.open(io.BytesIO(picture.data)) as image:
        assert image.mode == "RGB"
        return np.asarray(image)


@pytest.mark.parametrize(("file_format", "suffix"), [("JPEG", "jpg"), ("PNG", "png")])
def test_an_rgb_picture_keeps_its_bytes(file_format, suffix):
    data = encode(noise(0), file_format)
    picture = prepare_picture(data)
    assert (picture.data, picture.suffix, picture.converted_from) == (data, suffix, "")
    assert (picture.width, picture.height) == (12, 10)


@pytest.mark.parametrize(
    ("mode", "file_format", "kind"),
    [
        ("L", "JPEG", "grey"),
        ("L", "PNG", "grey"),
        ("1", "PNG", "grey"),
        ("CMYK", "JPEG", "cmyk"),
        ("P", "PNG", "palette"),
        ("P", "GIF", "gif+palette"),
        ("RGBA", "PNG", "alpha"),
        ("LA", "PNG", "alpha"),
        ("RGBA", "WEBP", "alpha"),
        ("RGB", "BMP", "bmp"),
        ("RGB", "TIFF", "tiff"),
        ("RGB", "PPM", "ppm"),
    ],
)
def test_other_modes_and_formats_are_converted_and_named(mode, file_format, kind):
    image = noise(1)
    source = image.convert("L").convert(mode) if mode == "LA" else image.convert(mode)
    if mode == "RGBA":
        source.putalpha(100)
    picture = prepare_picture(encode(source, file_format))
    assert picture.converted_from == kind
    assert pixels(picture).shape == (10, 12, 3)


def test_transparency_is_laid_over_white():
    image = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert (pixels(prepare_picture(encode(image, "PNG"))) == 255).all()
    palette = Image.new("P", (4, 4))
    picture = prepare_picture(encode(palette, "PNG", transparency=0))
    assert picture.converted_from == "alpha"
    assert (pixels(picture) == 255).all()


def test_sixteen_bits_become_eight_without_clipping():
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)
    picture = prepare_picture(encode(Image.fromarray(values), "PNG"))
    assert picture.converted_from == "16-bit"
    assert pixels(picture)[..., 0].tolist() == [[0, 100], [200, 255]]


def test_sixteen_bit_rgb_png_is_recognised():
    def chunk(name, data):
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    line = b"\0" + struct.pack(">HHH", 257 * 10, 257 * 20, 257 * 30)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(line)) + chunk(b"IEND", b"")
    picture = prepare_picture(data)
    assert picture.converted_from == "16-bit"
    assert pixels(picture).tolist() == [[[10, 20, 30]]]


def test_exif_rotation_is_carried_out_once():
    image = Image.new("RGB", (16, 8), (255, 0, 0))
    exif = image.getexif()
    exif[0x0112] = 6
    picture = prepare_picture(encode(image, "JPEG", exif=exif))
    assert picture.converted_from == "exif-rotated"
    assert (picture.width, picture.height) == (8, 16)
    assert prepare_picture(picture.data).data == picture.data


def test_damaged_exif_costs_nothing():
    data = encode(noise(0), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        # As `prepare` does around all its threads.
        warnings.simplefilter("ignore")
        assert prepare_picture(data).data == data


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    picture = prepare_picture(data)
    assert picture.converted_from == "animation"
    assert pixels(picture)[0, 0].tolist() == [255, 0, 0]


def test_max_edge_makes_larger_pictures_smaller_only():
    assert prepare_picture(encode(noise(0, 40, 20)), max_edge=40).converted_from == ""
    picture = prepare_picture(encode(noise(0, 40, 20)), max_edge=10)
    assert (picture.converted_from, picture.width, picture.height) == ("resized", 10, 5)


def float_tiff():
    return encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"not a picture", "not a picture in a known format"),
        (encode(noise(0, 64, 64))[:-400], "truncated: image file is truncated"),
        (encode(noise(0, 64, 64), "PNG")[:2000], "truncated"),
        (encode(noise(0))[:30], "not a picture|truncated|cannot be decoded"),
        (float_tiff(), "floating-point pixels"),
    ],
)
def test_unusable_pictures_are_refused_with_a_reason(data, reason):
    with pytest.raises(PictureError, match=reason):
        prepare_picture(data)


@pytest.mark.parametrize("edge", [10_000, 60_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(edge):
    data = bytearray(encode(Image.new("RGB", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", edge, edge)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(PictureError, match="more than 89478485 pixels"):
        prepare_picture(bytes(data))


def test_moments_are_exact():
    picture = prepare_picture(encode(Image.new("RGB", (7, 5), (51, 102, 255)), "PNG"))
    np.testing.assert_allclose(picture.moments[0], [0.2, 0.4, 1.0])
    np.testing.assert_allclose(picture.moments[1], [0.04, 0.16, 1.0])
