"""RandAugment, AutoAugment and random erasing, from given draws.

The operations are torchvision's, on Pillow images; only the drawing is ours, because torchvision
draws from a generator of the whole process, and here a picture's fate must depend on
(seed, epoch, row) alone (see `fpnas.data.augment`).

Legend: S input size, D draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]
MAX_MAGNITUDE = 30
RAND_AUGMENT_DRAWS = 2
"""Draws of one operation: which one, and its sign."""
AUTO_AUGMENT_DRAWS = 5
"""Draws of one policy: which one, and of each of its two operations whether, and its sign."""
ERASING_DRAWS = 5
"""Draws of one erasing: whether, area, aspect ratio, top and left."""
_ERASED_AREA = (0.02, 0.33)
_ERASED_ASPECT = 3.3

_Operation = Callable[[Any, Image.Image, float, float, Colour], Image.Image]


def _affine(name: str, largest: float) -> _Operation:
    """Shear in radians or translation in parts of the picture."""

    def apply(f: Any, image: Image.Image, level: float, sign: float, fill: Colour) -> Image.Image:
        size = largest * level * sign
        shear, translate = [0.0, 0.0], [0, 0]
        axis = 0 if name.endswith("X") else 1
        corner = None
        if name.startswith("Shear"):
            shear[axis], corner = math.degrees(math.atan(size)), [0, 0]
        else:
            translate[axis] = int(size * image.width)
        return _image(f.affine(image, 0.0, translate, 1.0, shear, center=corner, fill=list(fill)))

    return apply


def _rotate(f: Any, image: Image.Image, level: float, sign: float, fill: Colour) -> Image.Image:
    return _image(f.rotate(image, 30.0 * level * sign, fill=list(fill)))


def _enhance(name: str) -> _Operation:
    def apply(f: Any, image: Image.Image, level: float, sign: float, _: Colour) -> Image.Image:
        return _image(getattr(f, name)(image, 1.0 + 0.9 * level * sign))

    return apply


def _plain(name: str) -> _Operation:
    def apply(f: Any, image: Image.Image, _l: float, _s: float, _: Colour) -> Image.Image:
        return _image(getattr(f, name)(image))

    return apply


def _posterize(f: Any, image: Image.Image, level: float, _s: float, _: Colour) -> Image.Image:
    return _image(f.posterize(image, 8 - round(4 * level)))


def _solarize(f: Any, image: Image.Image, level: float, _s: float, _: Colour) -> Image.Image:
    return _image(f.solarize(image, 255.0 * (1.0 - level)))


def _identity(_f: Any, image: Image.Image, _l: float, _s: float, _: Colour) -> Image.Image:
    return image


# The fourteen of Cubuk et al., "RandAugment" (2020), with torchvision's ranges.
OPERATIONS: dict[str, _Operation] = {
    "Identity": _identity,
    "ShearX": _affine("ShearX", 0.3),
    "ShearY": _affine("ShearY", 0.3),
    "TranslateX": _affine("TranslateX", 150 / 331),
    "TranslateY": _affine("TranslateY", 150 / 331),
    "Rotate": _rotate,
    "Brightness": _enhance("adjust_brightness"),
    "Color": _enhance("adjust_saturation"),
    "Contrast": _enhance("adjust_contrast"),
    "Sharpness": _enhance("adjust_sharpness"),
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _plain("autocontrast"),
    "Equalize": _plain("equalize"),
}


def rand_augment(pixels: Pixels, draws: Sequence[float], magnitude: float, fill: Colour) -> Pixels:
    """Applies operations of one strength, one after another.

    Args:
        pixels: One picture, uint8 (S, S, 3).
        draws: In [0, 1), `RAND_AUGMENT_DRAWS` an operation.
        magnitude: 0 to `MAX_MAGNITUDE`.
        fill: Of what comes in from outside.
    """
    from torchvision.transforms.v2 import functional

    image, names = Image.fromarray(pixels), list(OPERATIONS)
    for which, side in zip(draws[::2], draws[1::2], strict=True):
        operation = OPERATIONS[names[int(which * len(names))]]
        sign = 1.0 if side < 0.5 else -1.0
        image = operation(functional, image, magnitude / MAX_MAGNITUDE, sign, fill)
    return np.asarray(image)


# AutoAugment has one more.
_POLICY_OPERATIONS = {**OPERATIONS, "Invert": _plain("invert")}
_POLICY_MAGNITUDES = 9


def auto_augment(pixels: Pixels, draws: Sequence[float], policy: str, fill: Colour) -> Pixels:
    """Applies one of the 25 pairs of operations of a policy, each with its own probability.

    The policies are those that were found in "AutoAugment" (Cubuk et al., CVPR 2019), from
    torchvision.

    Args:
        pixels: One picture, uint8 (S, S, 3).
        draws: In [0, 1), `AUTO_AUGMENT_DRAWS`.
        policy: ``imagenet``, ``cifar10`` or ``svhn``: the pictures that it was found on.
        fill: Of what comes in from outside.
    """
    from torchvision.transforms.v2 import functional

    pairs = _policies(policy)
    which, *rest = draws
    image = Image.fromarray(pixels)
    pair = pairs[int(which * len(pairs))]
    for (name, probability, magnitude), draw, side in zip(pair, rest[::2], rest[1::2], strict=True):
        if draw < probability:
            level = (magnitude or 0) / _POLICY_MAGNITUDES
            sign = 1.0 if side < 0.5 else -1.0
            image = _POLICY_OPERATIONS[name](functional, image, level, sign, fill)
    return np.asarray(image)


@cache
def _policies(name: str) -> list[tuple[tuple[str, float, int | None], ...]]:
    from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy

    found: list[tuple[tuple[str, float, int | None], ...]]
    found = AutoAugment(AutoAugmentPolicy(name)).policies
    return found


def erased_box(draws: Sequence[float], size: int) -> tuple[slice, slice]:
    """The box that random erasing takes, with torchvision's ranges of area and aspect ratio.

    Args:
        draws: In [0, 1): area, aspect ratio, top, left.
        size: S.
    """
    low, high = _ERASED_AREA
    area = (low + draws[0] * (high - low)) * size * size
    aspect = math.exp((2.0 * draws[1] - 1.0) * math.log(_ERASED_ASPECT))
    height, width = (
        min(max(round(math.sqrt(area * ratio)), 1), size) for ratio in (aspect, 1 / aspect)
    )
    top, left = int(draws[2] * (size - height + 1)), int(draws[3] * (size - width + 1))
    return slice(top, top + height), slice(left, left + width)


def _image(image: Any) -> Image.Image:
    assert isinstance(image, Image.Image)
    return image
