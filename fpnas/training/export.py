"""A trained classifier as files that run elsewhere, each checked against the network itself.

``model.pt2`` (torch.export) needs only torch::

    import torch
    model = torch.export.load("model.pt2").module()
    logits = model(images)  # float32 (B, 3, S, S), values from 0 to 1

``model.onnx`` and ``model.int8.onnx`` run in onnxruntime. Every file carries its class names and
how a picture becomes its input, see
:class:`fpnas.training.inference.ModelCard`. The batch is variable.

Tensor shapes: B pictures, S input size, C classes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fpnas.errors import FpnasError
from fpnas.networks.network import Classifier
from fpnas.training.inference import (
    CARD_KEY,
    INPUT_NAME,
    OUTPUT_NAME,
    ModelCard,
    Runner,
    require,
    runner,
    without_gradients,
)

FILES = ("model.pt2", "model.onnx", "model.int8.onnx")
LARGEST_DIFFERENCE = 1e-4
"""What a float32 file's logits may be off the network's, in absolute terms."""

Pictures = Iterable[tuple[Tensor, Tensor]]
"""Batches of pictures with values from 0 to 1, float32 (B, 3, S, S), and labels (B,)."""


class ExportError(FpnasError):
    """An exported file does not compute what the network computes."""


@dataclass(frozen=True)
class ExportedFile:
    """A file, and how it compares with the network.

    Attributes:
        name: Of the file.
        size_bytes: Of the file.
        max_difference: Of logits to the network's, over all pictures checked.
        agreement: Share of these pictures with the same first class.
        top1: Accuracy on them.
        num_images: Their number.
    """

    name: str
    size_bytes: int
    max_difference: float
    agreement: float
    top1: float
    num_images: int


def export_classifier(
    model: Classifier,
    directory: Path,
    card: ModelCard,
    *,
    checked: Pictures,
    calibration: Iterable[Tensor],
) -> list[ExportedFile]:
    """Writes all formats, and runs each on the same pictures as the network.

    A file is in the directory when all of them are right, or not at all.

    Args:
        model: On the CPU; put into evaluation mode.
        directory: Created when it is not there.
        card: Goes into every file.
        checked: Pictures to compare on.
        calibration: Pictures (B, 3, S, S) that the ranges of int8 activations are taken from.

    Returns:
        One record a file, the network itself as ``network`` first.

    Raises:
        InputError: The packages for ONNX are not installed.
        ExportError: A float32 file is off by more than :data:`LARGEST_DIFFERENCE`, or ranks
            another class first.
    """
    require("onnx", "onnxscript", "onnxruntime")
    model = model.eval()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in FILES]
        exported = _export(model, card)
        torch.export.save(exported, paths[0], extra_files={CARD_KEY: card.to_json()})
        write_onnx(exported, paths[1], card)
        write_int8(paths[1], paths[2], calibration)
        runners = {"network": without_gradients(model)} | {p.name: runner(p) for p in paths}
        found = _compare(runners, checked, {path.name: path.stat().st_size for path in paths})
        for record in found[:3]:
            if record.max_difference > LARGEST_DIFFERENCE or record.agreement < 1:
                raise ExportError(
                    f"{record.name} differs from the network by {record.max_difference:.2g} in a "
                    f"logit and in the first class of {1 - record.agreement:.2%} of "
                    f"{record.num_images} pictures; at most {LARGEST_DIFFERENCE:g} and none are "
                    "allowed"
                )
        directory.mkdir(parents=True, exist_ok=True)
        for path in paths:
            shutil.copyfile(path, directory / f"{path.name}.part")
            (directory / f"{path.name}.part").replace(directory / path.name)
    return found


def _export(model: Classifier, card: ModelCard) -> torch.export.ExportedProgram:
    # A batch of 1 would be taken for a constant.
    example = torch.zeros(2, 3, card.input_size, card.input_size)
    return torch.export.export(
        model, (example,), dynamic_shapes=({0: torch.export.Dim("batch", max=2**16)},)
    )


def write_onnx(exported: torch.export.ExportedProgram, path: Path, card: ModelCard) -> None:
    """Writes ONNX, at the opset that the installed torch exports by default."""
    import onnx

    with _quiet():
        program = torch.onnx.export(
            exported,
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    proto.metadata_props.add(key=CARD_KEY, value=card.to_json())
    onnx.checker.check_model(proto)
    onnx.save(proto, path)


def write_int8(source: Path, path: Path, calibration: Iterable[Tensor]) -> None:
    """Quantizes ONNX statically: int8 weights a channel, uint8 activations.

    Activations are cut at the 99.999th percentile, not at the extreme: swish has long tails. One
    batch is in memory at a time, with all activations of the network.

    Args:
        source: The float32 file.
        path: Where to.
        calibration: Pictures (B, 3, S, S).
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = [{INPUT_NAME: batch.numpy()} for batch in calibration]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._rest = iter(batches[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            return next(self._rest, None)

    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibStridedMinMax": 1},  # one batch at a time; for any method
        )
    proto = onnx.load(path)
    if not any(entry.key == CARD_KEY for entry in proto.metadata_props):
        proto.metadata_props.extend(onnx.load(source).metadata_props)
        onnx.save(proto, path)


def _compare(
    runners: dict[str, Runner], checked: Pictures, sizes: dict[str, int]
) -> list[ExportedFile]:
    worst = dict.fromkeys(runners, 0.0)
    agreeing, right = dict.fromkeys(runners, 0), dict.fromkeys(runners, 0)
    total = 0
    for images, labels in checked:
        reference = runners["network"](images)
        total += len(labels)
        for name, run in runners.items():
            logits = run(images)
            worst[name] = max(worst[name], float((logits - reference).abs().max()))
            agreeing[name] += int((logits.argmax(1) == reference.argmax(1)).sum())
            right[name] += int((logits.argmax(1) == labels).sum())
    return [
        ExportedFile(
            name,
            sizes.get(name, 0),
            worst[name],
            agreeing[name] / total,
            right[name] / total,
            total,
        )
        for name in runners
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress and the advice of exporters, which are not for users."""
    levels = {name: logging.getLogger(name).level for name in ("", "onnxscript", "onnx_ir")}
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
