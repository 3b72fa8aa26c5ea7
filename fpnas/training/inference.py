"""Runs exported classifiers: pictures in, the most probable classes out.

Tensor shapes: B pictures, S input size, C classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from fpnas.architecture import parse_architecture
from fpnas.errors import InputError
from fpnas.networks.network import Classifier, Network
from fpnas.packages import require

CARD_KEY = "fpnas.json"
INPUT_NAME, OUTPUT_NAME = "images", "logits"
_FIELD, _FIX = "--model", "write one with fpnas export"

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


def without_gradients(model: Callable[[Tensor], Tensor]) -> Runner:
    """Runs a module of torch."""

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            return model(images)

    return run


def runner(path: Path) -> Runner:
    """Loads an exported file."""
    return _load(path)[0]


def load(path: Path) -> tuple[Runner, ModelCard]:
    """Loads an exported file and its card.

    Raises:
        InputError: It is not a file that this module wrote.
    """
    try:
        run, text = _load(path)
        return run, ModelCard.from_json(text)
    except InputError:
        raise
    except Exception as error:  # whatever a foreign file makes the readers raise
        raise _foreign(path, _FIELD, _FIX) from error


def read_card(path: Path, *, field: str = _FIELD, fix: str = _FIX) -> ModelCard:
    """The card of ``model.safetensors``, without its weights.

    Args:
        path: The file.
        field: What it was given as, for the error.
        fix: What to do about a file that is another one.

    Raises:
        InputError: It is not such a file.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            return ModelCard.from_json((file.metadata() or {})[CARD_KEY])
    except Exception as error:  # whatever a foreign file makes the reader raise
        raise _foreign(path, field, fix) from error


def load_classifier(
    path: Path, *, field: str = _FIELD, fix: str = _FIX
) -> tuple[Classifier, ModelCard]:
    """Builds the network of ``model.safetensors``, with its weights.

    Args:
        path: The file.
        field: What it was given as, for the error.
        fix: What to do about a file that is another one.

    Raises:
        InputError: It is not such a file.
    """
    card = read_card(path, field=field, fix=fix)
    try:
        state = safetensors.torch.load_file(path)
        architecture = parse_architecture(card.architecture)
        model = Classifier(Network(architecture, len(card.classes)), [0.0] * 3, [1.0] * 3)
        model.load_state_dict(state)
    except Exception as error:  # whatever a foreign file makes the reader raise
        raise _foreign(path, field, fix) from error
    return model.eval(), card


def save_classifier(model: Classifier, path: Path, card: ModelCard) -> None:
    """Writes ``model.safetensors``, which :func:`load_classifier` reads."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, path, metadata={CARD_KEY: card.to_json()})


def _load(path: Path) -> tuple[Runner, str]:
    """What computes, and the text of the card; empty where there is none."""
    if path.suffix == ".safetensors":
        model, card = load_classifier(path)
        return without_gradients(model), card.to_json()
    if path.suffix == ".pt2":
        extra = {CARD_KEY: ""}
        module = torch.export.load(path, extra_files=extra).module()
        return without_gradients(module), extra[CARD_KEY]
    session = _session(path)

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT_NAME], {INPUT_NAME: images.contiguous().numpy()})
        return torch.from_numpy(logits)

    return run, session.get_modelmeta().custom_metadata_map.get(CARD_KEY, "")


def _foreign(path: Path, field: str, fix: str) -> InputError:
    every = "model.safetensors, model.pt2, model.onnx, model.int8.onnx"
    return InputError(
        field,
        path,
        "is not a classifier that fpnas exported",
        legal=every if field == _FIELD else "model.safetensors",
        fix=fix,
    )


def _session(path: Path) -> Any:
    require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()  # it does not ask OMP_NUM_THREADS
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
    from fpnas.data.decode import Target
    from fpnas.data.pictures import PictureError, prepare_picture

    found, target = [], Target(card.input_size, card.crop)
    for path in paths:
        try:
            data = prepare_picture(path.read_bytes()).data
        except (OSError, PictureError) as error:
            raise InputError(
                "IMAGE", path, f"cannot be read: {error}", fix="give JPEG, PNG or WebP files"
            ) from error
        found.append(target.decode(data))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float() / 255
