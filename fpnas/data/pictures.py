"""One picture: checked, converted to 8-bit RGB where needed, or refused with a reason.

Stored pictures are JPEG, PNG or WebP in 8-bit RGB, upright, so any reader of the shards can
take them as they are. A picture that is so already keeps its bytes.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Pillow registers formats when their modules are imported, and opens no format by name before.
from PIL import (
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

# Pillow's own limit for a warning. The largest ILSVRC picture has 61 million pixels (ours to
# choose: a larger one is more likely an attack or a mistake than a training picture).
MAX_PIXELS = 89_478_485
_STORED_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_READ_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
_GREY_MODES = ("1", "L")
_ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")
_WIDE_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_EXIF_ORIENTATION = 0x0112


class PictureError(ValueError):
    """A picture that cannot be used; the message is the reason in ``quarantine.csv``."""


@dataclass(frozen=True)
class Picture:
    """A picture as it is stored.

    Attributes:
        data: The encoded bytes.
        suffix: ``jpg``, ``png`` or ``webp``.
        width: Pixels.
        height: Pixels.
        converted_from: What made a conversion necessary, joined with ``+`` (``grey``,
            ``cmyk``, ``exif-rotated``, ...), or empty when the bytes are the source's.
        moments: Mean and mean square of each channel in units of 1/255, (2, 3) float64.
    """

    data: bytes
    suffix: str
    width: int
    height: int
    converted_from: str
    moments: npt.NDArray[np.float64]


def prepare_picture(data: bytes, max_edge: int | None = None) -> Picture:
    """Decodes a picture in full and returns what is to be stored.

    Transparent pixels are laid over white, 16-bit values are divided by 257, of an animation
    the first frame is taken (our choices). Formats other than JPEG, PNG and WebP are stored as
    PNG. A JPEG that needs conversion is stored as JPEG of quality 95 without chroma
    subsampling, anything else losslessly.

    Args:
        data: The source's bytes.
        max_edge: Largest edge in pixels; larger pictures are made smaller.

    Raises:
        PictureError: When it cannot be decoded or converted, or has more than `MAX_PIXELS`.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        return _prepare(data, max_edge)
    except PictureError:
        raise
    # A decoder that is given hostile bytes can raise anything, and each is a reason.
    except Exception as error:
        raise PictureError(_reason(error)) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a known format"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {MAX_PIXELS} pixels"
    if "truncated" in text.lower():
        return f"truncated: {text}"
    return f"cannot be decoded: {type(error).__name__}: {text}"


def _prepare(data: bytes, max_edge: int | None) -> Picture:
    with Image.open(io.BytesIO(data), formats=_READ_FORMATS) as image:
        source_format = image.format or ""
        if image.width * image.height > MAX_PIXELS:
            raise PictureError(f"more than {MAX_PIXELS} pixels")
        kinds = []
        if source_format not in _STORED_SUFFIXES:
            kinds.append(source_format.lower())
        if source_format != "MPO" and getattr(image, "n_frames", 1) > 1:
            kinds.append("animation")
        image.load()
        upright = _upright(image)
        if upright is not image:
            kinds.append("exif-rotated")
        # Pillow opens a 16-bit RGB PNG as RGB; byte 24 of the file is the bit depth.
        wide_png = source_format == "PNG" and data[24] == 16
        rgb = _to_rgb(upright, kinds, wide=wide_png)
    if max_edge is not None and max(rgb.size) > max_edge:
        rgb.thumbnail((max_edge, max_edge), Image.Resampling.LANCZOS)
        kinds.append("resized")
    suffix = _STORED_SUFFIXES.get(source_format, "png")
    if kinds:
        data, suffix = _encode(rgb, lossy=suffix == "jpg")
    return Picture(data, suffix, rgb.width, rgb.height, "+".join(kinds), _moments(rgb))


def _upright(image: Image.Image) -> Image.Image:
    """Returns the picture as its EXIF orientation wants it, or itself when that is as it is."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:
        # Damaged EXIF says nothing about the pixels, which have been decoded.
        return image
    if orientation not in range(2, 9):
        return image
    return ImageOps.exif_transpose(image)


def _to_rgb(image: Image.Image, kinds: list[str], *, wide: bool) -> Image.Image:
    """Converts to 8-bit RGB, naming in ``kinds`` what the picture was."""
    transparent = image.mode == "P" and "transparency" in image.info
    if image.mode in _WIDE_MODES:
        kinds.append("16-bit")
        values = np.asarray(image).astype(np.int64)
        if values.max() > 65535 or values.min() < 0:
            raise PictureError("integer pixels outside 0..65535 have no known range")
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.mode in _ALPHA_MODES or transparent:
        kinds.append("alpha")
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    if image.mode == "F":
        raise PictureError("floating-point pixels have no known range")
    if image.mode == "RGB":
        if wide:
            kinds.append("16-bit")
        return image.copy()
    names = {"P": "palette", "CMYK": "cmyk"}
    kinds.append("grey" if image.mode in _GREY_MODES else names.get(image.mode, image.mode.lower()))
    return image.convert("RGB")


def _encode(image: Image.Image, *, lossy: bool) -> tuple[bytes, str]:
    buffer = io.BytesIO()
    # Nothing of the old file goes along: a second EXIF rotation would turn the picture again.
    image.info.clear()
    if lossy:
        image.save(buffer, "JPEG", quality=95, subsampling=0)
        return buffer.getvalue(), "jpg"
    image.save(buffer, "PNG")
    return buffer.getvalue(), "png"


def _moments(image: Image.Image) -> npt.NDArray[np.float64]:
    """Mean and mean square per channel, from exact counts."""
    counts = np.asarray(image.histogram(), dtype=np.float64).reshape(3, 256)
    values = np.arange(256) / 255.0
    moments: npt.NDArray[np.float64] = np.stack([counts @ values, counts @ values**2])
    return moments / np.float64(image.width * image.height)
