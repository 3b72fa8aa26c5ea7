"""Augmentation of decoded pictures, and normalisation.

What happens to a picture depends on (seed, epoch, row) alone: not on the batch it is in, the
thread that decodes it or what came before. That is what makes resuming exact.

NumPy and `fpnas.data.decode.resize` do the work: called from a loader's threads, most PyTorch
operations would wait for a team of OpenMP threads that competes with the training step for the
same processors, and on busy processors the waiting takes many times as long as the work.

Legend: B pictures, H and W their height and width, S input size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from fpnas.data.decode import Pixels, Target, resize
from fpnas.data.distortions import (
    AUTO_AUGMENT_DRAWS,
    ERASING_DRAWS,
    RAND_AUGMENT_DRAWS,
    Box,
    Colour,
    Step,
    auto_augment,
    distort,
    distort_batch,
    erase_batch,
    erased_box,
    rand_augment,
)
from fpnas.data.order import Rows
from fpnas.errors import InputError, closest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Enough for the offsets, the area, the aspect ratio and the flip of one picture.
_NUM_DRAWS = 5


@dataclass(frozen=True)
class Augmentation:
    """How a picture becomes an input.

    Attributes:
        flip: Mirror half of the training pictures. Wrong for digits and letters.
        padding: Border added before a random crop of the input size, as part of that size.
            Black, and no effect in evaluation. 4 pixels at 32 px, as is usual for CIFAR.
        min_area: Smallest area of a random resized crop, as part of the picture; 1 for none.
        max_aspect: The crop's aspect ratio is drawn between 1 / max_aspect and max_aspect.
        working_scale: Least shorter edge as a multiple of the input size, for resized crops:
            pictures that have more pixels are decoded at a reduced scale.
        train_crop: Centre square that training takes, as part of the shorter edge; None takes
            the whole picture, which is squeezed into a square unless resized crops are taken.
        eval_crop: The same for evaluation.
        rand_augment_ops: Operations of RandAugment a picture.
        rand_augment_magnitude: Their strength, of 30.
        auto_augment: Policy of AutoAugment; None for none.
        random_erasing: Probability of erasing a box.
        fill: Colour of what is erased or comes in from outside; the mean colour of the pictures
            becomes zero when they are normalized.
    """

    flip: bool = False
    padding: float = 0.0
    min_area: float = 1.0
    max_aspect: float = 1.0
    working_scale: float = 1.0
    train_crop: float | None = None
    eval_crop: float | None = None
    rand_augment_ops: int = 0
    rand_augment_magnitude: int = 9
    auto_augment: str | None = None
    random_erasing: float = 0.0
    fill: Colour = (0, 0, 0)

    @property
    def distorts(self) -> bool:
        """Whether more happens to a picture than a crop and a flip."""
        return bool(self.rand_augment_ops or self.auto_augment or self.random_erasing)


# 'imagenet' draws from 25 % of the area upwards (8 % is usual), because searched networks are
# small, and from a picture of 1.5 times the input size or more, so that it enlarges by at most a
# third.
AUGMENTATIONS = {
    "none": Augmentation(),
    "crop": Augmentation(padding=0.125),
    "crop_flip": Augmentation(padding=0.125, flip=True),
    "imagenet": Augmentation(
        flip=True,
        min_area=0.25,
        max_aspect=4 / 3,
        working_scale=1.5,
        train_crop=1.0,
        eval_crop=0.875,
    ),
}


def get_augmentation(name: str) -> Augmentation:
    """Returns a preset: ``none``, ``crop``, ``crop_flip`` or ``imagenet``.

    Raises:
        InputError: When there is no such preset.
    """
    if name not in AUGMENTATIONS:
        raise InputError("augmentation", name, "is unknown", fix=closest(name, AUGMENTATIONS))
    return AUGMENTATIONS[name]


def default_augmentation(source: str, input_size: int) -> str:
    """Returns the preset for a source of pictures and an input size in pixels (our choice)."""
    if source == "digits":
        return "crop"
    return "imagenet" if input_size >= 96 else "crop_flip"


def decoding_target(augmentation: Augmentation, input_size: int, *, training: bool) -> Target:
    """Returns what pictures are decoded to before they are augmented."""
    if not training:
        return Target(input_size, augmentation.eval_crop)
    if augmentation.min_area == 1.0:
        return Target(input_size, augmentation.train_crop)
    size = math.ceil(input_size * augmentation.working_scale)
    return Target(size, augmentation.train_crop, resize=False)


def uniforms(seed: int, epoch: int, rows: Rows, num_draws: int) -> npt.NDArray[np.float64]:
    """Draws numbers in [0, 1) that depend on (seed, epoch, row, draw) and nothing else.

    SplitMix64's mixer (Steele, Lea and Flood 2014) over a counter.

    Args:
        seed: The run's seed.
        epoch: The epoch.
        rows: Rows of the split, (B,).
        num_draws: Numbers per row.

    Returns:
        (B, num_draws).
    """
    state = np.array([seed], dtype=np.uint64)
    for part in (np.array([epoch], dtype=np.uint64), rows.astype(np.uint64)):
        state = _mix(_mix(state) ^ part)
    draws = np.arange(1, num_draws + 1, dtype=np.uint64)
    bits = _mix(state[:, None] + draws * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def augment(
    pictures: Sequence[Pixels],
    rows: Rows,
    augmentation: Augmentation,
    *,
    input_size: int,
    seed: int,
    epoch: int,
    distorted: bool = True,
) -> Pixels:
    """Augments training pictures.

    Args:
        pictures: B times uint8, (H, W, 3), decoded to `decoding_target`.
        rows: Rows of the split, (B,).
        augmentation: What to do.
        input_size: S.
        seed: The run's seed.
        epoch: The epoch.
        distorted: False leaves them to `distort_images`: they are cropped and mirrored only.

    Returns:
        uint8, (B, S, S, 3).

    Raises:
        ValueError: When a picture's size is not what the augmentation works on.
    """
    draws = _draw(augmentation, rows, seed, epoch)
    result = np.empty((len(rows), input_size, input_size, 3), np.uint8)
    _crop(pictures, draws[:, :_NUM_DRAWS], augmentation, input_size, result)
    if distorted and augmentation.distorts:
        drawn = _distortions(draws[:, _NUM_DRAWS:], augmentation, input_size)
        for picture, (steps, box) in zip(result, drawn, strict=True):
            picture[:] = distort(picture, steps, augmentation.fill)
            if box is not None:
                picture[box] = augmentation.fill
    return result


def distort_images(
    images: torch.Tensor, rows: Rows, augmentation: Augmentation, *, seed: int, epoch: int
) -> torch.Tensor:
    """Does the rest of `augment` to a batch, on its device; equal but for rounding.

    Args:
        images: What `augment` gives when it distorts nothing, uint8 (B, 3, S, S).
        rows: Rows of the split, (B,).
        augmentation: What to do.
        seed: The run's seed.
        epoch: The epoch.

    Returns:
        uint8, (B, 3, S, S).
    """
    draws = _draw(augmentation, rows, seed, epoch)
    drawn = _distortions(draws[:, _NUM_DRAWS:], augmentation, images.shape[-1])
    steps, boxes = zip(*drawn, strict=True)
    images = distort_batch(images, steps, augmentation.fill)
    return erase_batch(images, boxes, augmentation.fill) if any(boxes) else images


def _draw(augmentation: Augmentation, rows: Rows, seed: int, epoch: int) -> npt.NDArray[np.float64]:
    num_distorting = ERASING_DRAWS + RAND_AUGMENT_DRAWS * augmentation.rand_augment_ops
    if augmentation.auto_augment:
        num_distorting += AUTO_AUGMENT_DRAWS
    return uniforms(seed, epoch, rows, _NUM_DRAWS + num_distorting)


def _distortions(
    draws: npt.NDArray[np.float64], augmentation: Augmentation, input_size: int
) -> list[tuple[list[Step], Box | None]]:
    """Returns the operations that each picture takes, and the box that is erased."""
    num_rand = RAND_AUGMENT_DRAWS * augmentation.rand_augment_ops
    found: list[tuple[list[Step], Box | None]] = []
    for drawn in draws.tolist():
        for_erasing, for_operations = drawn[:ERASING_DRAWS], drawn[ERASING_DRAWS:]
        steps = rand_augment(for_operations[:num_rand], augmentation.rand_augment_magnitude)
        if augmentation.auto_augment:
            steps += auto_augment(for_operations[num_rand:], augmentation.auto_augment)
        erases = for_erasing[0] < augmentation.random_erasing
        found.append((steps, erased_box(for_erasing[1:], input_size) if erases else None))
    return found


def _crop(
    pictures: Sequence[Pixels],
    draws: npt.NDArray[np.float64],
    augmentation: Augmentation,
    input_size: int,
    result: Pixels,
) -> None:
    """Crops pictures into the result and mirrors some."""
    flipped = (draws[:, 4] < 0.5) & augmentation.flip
    if augmentation.min_area < 1.0:
        crops = _random_crops(pictures, draws, augmentation)
        for i, crop in enumerate(crops):
            pixels = resize(crop, input_size)
            result[i] = pixels[:, ::-1] if flipped[i] else pixels
        return
    padding = round(augmentation.padding * input_size)
    offsets = (draws[:, :2] * (2 * padding + 1)).astype(int).tolist()
    for i, (top, left) in enumerate(offsets):
        if pictures[i].shape != result.shape[1:]:
            raise ValueError(
                f"pictures are {pictures[i].shape[0]} px, but only a resized crop changes sizes"
            )
        _shifted(pictures[i], padding - top, padding - left, result[i])
        if flipped[i]:
            result[i] = result[i, :, ::-1].copy()


def _shifted(picture: Pixels, down: int, right: int, result: Pixels) -> None:
    """Moves a picture, which is the same as to crop it after padding it with black."""
    size = len(picture)
    result[...] = 0
    result[max(down, 0) : size + min(down, 0), max(right, 0) : size + min(right, 0)] = picture[
        max(-down, 0) : size - max(down, 0), max(-right, 0) : size - max(right, 0)
    ]


def _random_crops(
    pictures: Sequence[Pixels], draws: npt.NDArray[np.float64], augmentation: Augmentation
) -> list[Pixels]:
    """Crops a random area with a random aspect ratio out of each picture."""
    heights, widths = np.array([picture.shape[:2] for picture in pictures]).T
    area = augmentation.min_area + draws[:, 2] * (1.0 - augmentation.min_area)
    aspect = np.exp((2.0 * draws[:, 3] - 1.0) * math.log(augmentation.max_aspect))
    # A crop that would be longer than the picture is cut to it.
    area *= heights * widths
    crop_heights = np.rint(np.sqrt(area / aspect)).clip(1, heights).astype(int)
    crop_widths = np.rint(np.sqrt(area * aspect)).clip(1, widths).astype(int)
    tops = (draws[:, 0] * (heights - crop_heights + 1)).astype(int)
    lefts = (draws[:, 1] * (widths - crop_widths + 1)).astype(int)
    boxes = np.stack([tops, tops + crop_heights, lefts, lefts + crop_widths], axis=1).tolist()
    return [
        picture[top:bottom, left:right]
        for picture, (top, bottom, left, right) in zip(pictures, boxes, strict=True)
    ]


def normalize(
    images: torch.Tensor,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> torch.Tensor:
    """Turns pictures into inputs: ``(images / 255 - mean) / std``, on the images' device.

    Args:
        images: uint8, (B, 3, S, S).
        mean: RGB, 1 being white.
        std: RGB, in the same unit.

    Returns:
        float32, (B, 3, S, S).
    """
    shift = torch.tensor(mean, device=images.device).view(1, 3, 1, 1) * 255.0
    scale = torch.tensor(std, device=images.device).view(1, 3, 1, 1) * 255.0
    # In place: fresh memory is a good part of the cost on a CPU.
    return images.float().sub_(shift).div_(scale)
