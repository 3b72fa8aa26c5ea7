"""RandAugment, AutoAugment and random erasing, from given draws.

The operations are torchvision's; only the drawing is ours, because torchvision draws from a
generator of the whole process, and here a picture's fate must depend on (seed, epoch, row) alone
(see `fpnas.data.augment`).

What is drawn is a list of steps a picture. It is applied by Pillow, to one picture (`distort`), or
to a batch on any device, where the pictures that draw the same step take it together
(`distort_batch`). The two differ by rounding.

Legend: B pictures, S input size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

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

Box = tuple[slice, slice]
"""Rows and columns of a picture."""
_Operation = Callable[[Any, Any, float, float, Colour], Any]
"""From torchvision's functions, a picture or a batch, level, sign and fill to the result."""


class Step(NamedTuple):
    """One operation as it was drawn.

    Attributes:
        name: Of `OPERATIONS`.
        level: Its strength, 0 to 1.
        sign: 1 or -1; always 1 for operations without a direction.
    """

    name: str
    level: float
    sign: float


def _affine(name: str, largest: float) -> _Operation:
    """Shear in radians or translation in parts of the picture."""

    def apply(f: Any, image: Any, level: float, sign: float, fill: Colour) -> Any:
        size = largest * level * sign
        shear, translate = [0.0, 0.0], [0, 0]
        axis = 0 if name.endswith("X") else 1
        corner = None
        if name.startswith("Shear"):
            shear[axis], corner = math.degrees(math.atan(size)), [0, 0]
        else:
            translate[axis] = int(size * f.get_size(image)[0])
        return f.affine(image, 0.0, translate, 1.0, shear, center=corner, fill=list(fill))

    return apply


def _rotate(f: Any, image: Any, level: float, sign: float, fill: Colour) -> Any:
    return f.rotate(image, 30.0 * level * sign, fill=list(fill))


def _enhance(name: str) -> _Operation:
    def apply(f: Any, image: Any, level: float, sign: float, _: Colour) -> Any:
        return getattr(f, name)(image, 1.0 + 0.9 * level * sign)

    return apply


def _plain(name: str) -> _Operation:
    def apply(f: Any, image: Any, _l: float, _s: float, _: Colour) -> Any:
        return getattr(f, name)(image)

    return apply


def _posterize(f: Any, image: Any, level: float, _s: float, _: Colour) -> Any:
    return f.posterize(image, 8 - round(4 * level))


def _solarize(f: Any, image: Any, level: float, _s: float, _: Colour) -> Any:
    return f.solarize(image, 255.0 * (1.0 - level))


def _identity(_f: Any, image: Any, _l: float, _s: float, _: Colour) -> Any:
    return image


# The fourteen of Cubuk et al., "RandAugment" (2020), with torchvision's ranges.
RAND_AUGMENT_OPERATIONS: dict[str, _Operation] = {
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


# AutoAugment has one more.
OPERATIONS = {**RAND_AUGMENT_OPERATIONS, "Invert": _plain("invert")}
_WITHOUT_DIRECTION = {"Identity", "Posterize", "Solarize", "AutoContrast", "Equalize", "Invert"}
_POLICY_MAGNITUDES = 9


def rand_augment(draws: Sequence[float], magnitude: float) -> list[Step]:
    """Chooses operations of one strength.

    Args:
        draws: In [0, 1), `RAND_AUGMENT_DRAWS` an operation.
        magnitude: 0 to `MAX_MAGNITUDE`.
    """
    names = list(RAND_AUGMENT_OPERATIONS)
    return [
        _step(names[int(which * len(names))], magnitude / MAX_MAGNITUDE, side)
        for which, side in zip(draws[::2], draws[1::2], strict=True)
    ]


def auto_augment(draws: Sequence[float], policy: str) -> list[Step]:
    """Chooses one of the 25 pairs of operations of a policy, each with its own probability.

    The policies are those that were found in "AutoAugment" (Cubuk et al., CVPR 2019), from
    torchvision.

    Args:
        draws: In [0, 1), `AUTO_AUGMENT_DRAWS`.
        policy: ``imagenet``, ``cifar10`` or ``svhn``: the pictures that it was found on.
    """
    pairs = _policies(policy)
    which, *rest = draws
    pair = pairs[int(which * len(pairs))]
    return [
        _step(name, (magnitude or 0) / _POLICY_MAGNITUDES, side)
        for (name, probability, magnitude), draw, side in zip(
            pair, rest[::2], rest[1::2], strict=True
        )
        if draw < probability
    ]


def _step(name: str, level: float, draw: float) -> Step:
    # Steps that do the same are equal, so that a batch takes them together.
    return Step(name, level, 1.0 if draw < 0.5 or name in _WITHOUT_DIRECTION else -1.0)


def distort(pixels: Pixels, steps: Sequence[Step], fill: Colour) -> Pixels:
    """Takes steps with one picture, one after another, by Pillow.

    Args:
        pixels: uint8, (S, S, 3).
        steps: What was drawn for it.
        fill: Of what comes in from outside.
    """
    if not steps:
        return pixels
    from torchvision.transforms.v2 import functional

    image: Any = Image.fromarray(pixels)
    for name, level, sign in steps:
        image = OPERATIONS[name](functional, image, level, sign, fill)
    return np.asarray(image)


def distort_batch(images: Tensor, steps: Sequence[Sequence[Step]], fill: Colour) -> Tensor:
    """Takes each picture's steps, on the device of the batch.

    The first steps are taken first, then the second ones: one call for all pictures that take the
    same one.

    Args:
        images: uint8, (B, 3, S, S).
        steps: What was drawn for each picture, B times.
        fill: Of what comes in from outside.

    Returns:
        uint8, (B, 3, S, S), in memory of its own.
    """
    import torch
    from torchvision.transforms.v2 import functional

    images = images.clone()
    for i in range(max(map(len, steps), default=0)):
        places: dict[Step, list[int]] = {}
        for place, drawn in enumerate(steps):
            if i < len(drawn) and drawn[i].name != "Identity":
                places.setdefault(drawn[i], []).append(place)
        if not places:
            continue
        # One copy to the device for all of them.
        order = torch.tensor([place for group in places.values() for place in group])
        groups = order.to(images.device).split([len(group) for group in places.values()])
        for (name, level, sign), group in zip(places, groups, strict=True):
            images[group] = OPERATIONS[name](functional, images[group], level, sign, fill)
    return images


def erase_batch(images: Tensor, boxes: Sequence[Box | None], fill: Colour) -> Tensor:
    """Fills a box of each picture that has one, on the device of the batch.

    Args:
        images: uint8, (B, 3, S, S).
        boxes: Rows and columns, B times.
        fill: With what.

    Returns:
        uint8, (B, 3, S, S).
    """
    import torch

    edges = [
        (rows.start, rows.stop, columns.start, columns.stop)
        for rows, columns in (box or (slice(0, 0), slice(0, 0)) for box in boxes)
    ]
    top, bottom, left, right = torch.tensor(edges).to(images.device).T[..., None, None, None]
    places = torch.arange(images.shape[-1], device=images.device)
    down, across = places[:, None], places
    inside = (down >= top) & (down < bottom) & (across >= left) & (across < right)
    colour = torch.tensor(fill, dtype=images.dtype, device=images.device)
    return torch.where(inside, colour[:, None, None], images)


@cache
def _policies(name: str) -> list[tuple[tuple[str, float, int | None], ...]]:
    from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy

    found: list[tuple[tuple[str, float, int | None], ...]]
    found = AutoAugment(AutoAugmentPolicy(name)).policies
    return found


def erased_box(draws: Sequence[float], size: int) -> Box:
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
