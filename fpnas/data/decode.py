"""From the bytes of a stored picture to pixels, at a reduced scale where that is enough.

JPEGs are decoded by libjpeg-turbo through simplejpeg, and resized by PyTorch's kernel for bytes:
both give what Pillow gives (the decoder to the bit, the kernel within 1 of 255), in a half to a
quarter of the time (``results/loader.md``), and let other threads run meanwhile. The kernel
computes in the calling thread, so no team of OpenMP threads competes with the training step.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import simplejpeg
import torch

# Pillow opens a format by name only after its module was imported.
from PIL import (
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)
from torch.nn import functional as F

Pixels = npt.NDArray[np.uint8]
_REDUCTIONS = (8, 4, 2)
_JPEG_START = b"\xff\xd8"
_START_OF_SCAN = 0xDA
# APP1 to APP13, APP15 and comments.
_METADATA_MARKERS = frozenset([*range(0xE1, 0xEE), 0xEF, 0xFE])


@dataclass(frozen=True)
class Target:
    """What pictures are decoded to.

    A reduced scale is 1/2, 1/4 or 1/8: those are fast, since a JPEG's blocks of 8 x 8 pixels are
    then transformed to 4 x 4, 2 x 2 or 1 x 1. Pictures of other formats are averaged.

    Attributes:
        size: Pixels.
        crop: None takes the whole picture; a fraction takes the centre square with that part of
            the shorter edge.
        resize: Whether to resize the crop to a square of ``size``, antialiased, from a scale
            that is at least twice that. Else it stays at the smallest scale at which its
            shorter edge has ``size`` pixels, to be resized together with a random crop.
    """

    size: int
    crop: float | None
    resize: bool = True

    def decode(self, data: bytes) -> Pixels:
        """Decodes a stored picture.

        Args:
            data: Bytes as stored by `fpnas.data.pictures.prepare_picture`.

        Returns:
            uint8, (height, width, 3) as `shape` says. The result depends on nothing else, so it
            can be kept.

        Raises:
            OSError: When the bytes are not what was stored.
        """
        pixels = self._decode_jpeg(data) if data.startswith(_JPEG_START) else None
        if pixels is None:
            pixels = self._decode_any(data)
        if self.crop is not None:
            pixels = _centre(pixels, self.crop)
        return resize(pixels, self.size) if self.resize else pixels

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """Returns the height and width to which a picture of the given size is decoded."""
        if self.resize:
            return self.size, self.size
        factor = self._reduction(width, height)
        height, width = -(-height // factor), -(-width // factor)
        if self.crop is None:
            return height, width
        edge = _edge(height, width, self.crop)
        return edge, edge

    def _reduction(self, width: int, height: int) -> int:
        edge = min(width, height) * (self.crop or 1.0)
        needed = self.size * (2 if self.resize else 1)
        return next((factor for factor in _REDUCTIONS if edge >= needed * factor), 1)

    def _decode_jpeg(self, data: bytes) -> Pixels | None:
        """Decodes a JPEG; None when it has faults, of which Pillow forgives some."""
        try:
            height, width, _, _ = simplejpeg.decode_jpeg_header(data)
            factor = self._reduction(width, height)
            pixels: Pixels = simplejpeg.decode_jpeg(
                data,
                min_height=-(-height // factor),
                min_width=-(-width // factor),
                min_factor=factor,
            )
        except ValueError:
            return None
        return pixels

    def _decode_any(self, data: bytes) -> Pixels:
        formats = ("JPEG", "PNG", "WEBP")
        with Image.open(io.BytesIO(_without_metadata(data)), formats=formats) as image:
            width, height = image.size
            factor = self._reduction(width, height)
            image.draft("RGB", (width // factor, height // factor))
            rgb = image.convert("RGB")
            if rgb.size == (width, height) and factor > 1:
                rgb = rgb.reduce(factor)
            return np.array(rgb)


def resize(pixels: Pixels, size: int) -> Pixels:
    """Resizes pixels (H, W, 3) to a square of ``size``, bilinear and antialiased."""
    if pixels.shape[:2] == (size, size):
        return pixels
    # Contiguous, and in that order of steps: otherwise PyTorch copies, with several threads.
    image = torch.from_numpy(np.ascontiguousarray(pixels))[None].permute(0, 3, 1, 2)
    resized = F.interpolate(image, (size, size), mode="bilinear", antialias=True)
    square: Pixels = resized[0].permute(1, 2, 0).numpy()
    return square


def _edge(height: int, width: int, crop: float) -> int:
    return max(round(min(height, width) * crop), 1)


def _centre(pixels: Pixels, crop: float) -> Pixels:
    height, width, _ = pixels.shape
    edge = _edge(height, width, crop)
    top, left = (height - edge) // 2, (width - edge) // 2
    return pixels[top : top + edge, left : left + edge]


def _without_metadata(data: bytes) -> bytes:
    """Returns a JPEG without the segments that say nothing about its pixels.

    Pillow reads EXIF and multi-picture segments as it opens a file and warns when they are
    damaged. A warning can be caught for a whole process only, not in a thread, so decoding
    threads keep them away from Pillow. APP0 (JFIF) and APP14 (Adobe's colour transform) stay.
    """
    if not data.startswith(_JPEG_START):
        return data
    kept, position = [data[:2]], 2
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        marker = data[position + 1]
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _START_OF_SCAN:
            break
        if marker not in _METADATA_MARKERS:
            kept.append(data[position:end])
        position = end
    return b"".join([*kept, data[position:]])
