"""A run's model as files that run elsewhere, from the artifacts of its stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from fpnas.data.loader import ImageLoader
    from fpnas.storage import Artifact

FOLDER = "exported"
"""Folder of the files inside the artifact of the stage ``register``."""
RECORD, WEIGHTS = "export.json", "model.safetensors"

_BATCH_SIZE = 64
_CALIBRATION_BATCH_SIZE, _CALIBRATION_BATCHES = 16, 32


def export_model(
    model: Artifact,
    dataset: Artifact,
    directory: Path,
    architecture: str,
    opset: int | None = None,
) -> dict[str, Any]:
    """Writes a model in all formats of :mod:`fpnas.training.export`.

    Each file is checked beside the network on all validation pictures; the ranges of int8 are
    taken from pictures of the architecture half, which no accuracy is measured on.

    Args:
        model: Of the stage ``train`` or ``distill``.
        dataset: Of the stage ``prepare``.
        directory: Where the files go.
        architecture: In one line.
        opset: Of ONNX; torch's default when None.

    Returns:
        ``files``, see :class:`fpnas.training.export.ExportedFile`, ``largest_difference`` that is
        allowed, ``opset`` and the ``torch`` that wrote them, as JSON.

    Raises:
        InputError: Packages are missing, or do not write the opset.
        ExportError: A file does not compute what the network computes.
    """
    import torch

    from fpnas.data.augment import Augmentation
    from fpnas.data.loader import ImageLoader
    from fpnas.networks.network import Classifier
    from fpnas.stages.batches import open_dataset
    from fpnas.stages.training import load_model
    from fpnas.training.export import LARGEST_DIFFERENCE, export_classifier, opset_of
    from fpnas.training.inference import ModelCard

    network, info = load_model(model)
    pictures = open_dataset(dataset)

    def loader(split: Any, batch_size: int) -> ImageLoader:
        return ImageLoader(
            pictures,
            split,
            batch_size=batch_size,
            input_size=info["input_size"],
            training=False,
            seed=0,
            augmentation=Augmentation(eval_crop=info["crop"]),
        )

    card = ModelCard(
        classes=tuple(entry["name"] for entry in info["classes"]),
        input_size=info["input_size"],
        crop=info["crop"],
        architecture=architecture,
    )
    calibration = islice(_pictures(loader("alpha", _CALIBRATION_BATCH_SIZE)), _CALIBRATION_BATCHES)
    files = export_classifier(
        Classifier(network, info["mean"], info["std"]),
        directory,
        card,
        checked=_pictures(loader("val", _BATCH_SIZE)),
        calibration=(images for images, _ in calibration),
        opset=opset,
    )
    return {
        "files": [asdict(file) for file in files],
        "largest_difference": LARGEST_DIFFERENCE,
        "opset": opset_of(directory / "model.onnx"),
        "torch": torch.__version__,
    }


def _pictures(loader: ImageLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Values from 0 to 1, as an exported file takes them."""
    for images, labels, _ in loader:
        yield images.float() / 255, labels
