"""Runs exported classifiers: pictures in, the most probable classes out.

Tensor shapes: B pictures, S input size, C classes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fpnas.errors import InputError

CARD_KEY = "fpnas.json"
INPUT_NAME, OUTPUT_NAME = "images", "logits"

Runner = Callable[[Tensor], Tensor]
"""Maps pictures with values from 0 to 1, float32 (B, 3, S, S), to logits (B, C)."""


@dataclass(frozen=True)
class ModelCard:
    """What an exported file says of itself.

    Attributes:
        classes: Names by index.
        input_size: Edge of a picture, pixels.
        crop: Centre square that is kept, as part of the shorter edge; None squeezes the picture.
        architecture: In one line.
    """

    classes: tuple[str, ...]
    input_size: int
    crop: float | None = None
    architecture: str = ""

    @classmethod
    def from_json(cls, text: str) -> ModelCard:
        """Reads what :meth:`to_json` wrote."""
        values = json.loads(text)
        return cls(**{**values, "classes": tuple(values["classes"])})

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self), ensure_ascii=False)


def require(*packages: str) -> None:
    """Makes sure that packages for exported files are installed.

    Raises:
        InputError: Naming one that is not.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise InputError(
                "package", package, "is not installed", fix="pip install 'fpnas[export]'"
            ) from error


def without_gradients(model: Callable[[Tensor], Tensor]) -> Runner:
    """Runs a module of torch."""

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model(images)

    return run


def runner(path: Path) -> Runner:
    """Loads an exported file."""
    if path.suffix == ".pt2":
        return without_gradients(torch.export.load(path).module())
    session = _session(path)

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT_NAME], {INPUT_NAME: images.contiguous().numpy()})
        return torch.from_numpy(logits)

    return run


def read_card(path: Path) -> ModelCard:
    """Reads the card of an exported file.

    Raises:
        InputError: It is not a file that this module wrote.
    """
    text = ""
    with contextlib.suppress(Exception):  # whatever a foreign file makes the readers raise
        if path.suffix == ".pt2":
            extra = {CARD_KEY: ""}
            torch.export.load(path, extra_files=extra)
            text = extra[CARD_KEY]
        else:
            text = _session(path).get_modelmeta().custom_metadata_map.get(CARD_KEY, "")
    if not text:
        raise InputError(
            "--model",
            path,
            "is not a classifier that fpnas exported",
            legal="model.pt2, model.onnx, model.int8.onnx",
            fix="write one with fpnas export",
        )
    return ModelCard.from_json(text)


def _session(path: Path) -> Any:
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def top_classes(
    run: Runner, card: ModelCard, images: Tensor, number: int
) -> list[list[tuple[str, float]]]:
    """The most probable classes of pictures (B, 3, S, S), each with its probability."""
    values, indices = run(images).softmax(dim=1).topk(min(number, len(card.classes)), dim=1)
    return [
        [(card.classes[index], value) for index, value in zip(*row, strict=True)]
        for row in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def read_pictures(paths: Sequence[Path], card: ModelCard) -> Tensor:
    """Reads pictures as evaluation does: (B, 3, S, S), values from 0 to 1.

    Raises:
        InputError: A file that is not there, or not a picture.
    """
    from fpnas.data.pictures import PictureError, decode, prepare_picture

    found = []
    for path in paths:
        try:
            data = prepare_picture(path.read_bytes()).data
        except (OSError, PictureError) as error:
            raise InputError(
                "IMAGE", path, f"cannot be read: {error}", fix="give JPEG, PNG or WebP files"
            ) from error
        found.append(decode(data, card.input_size, card.crop))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255
