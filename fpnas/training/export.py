"""A trained classifier as files that run elsewhere, each checked against the network itself.

``model.pt2`` (torch.export) needs only torch::

    import torch
    model = torch.export.load("model.pt2").module()
    logits = model(images)  # float32 (B, 3, S, S), values from 0 to 1

``model.onnx`` and ``model.int8.onnx`` run in onnxruntime, and ``model.safetensors`` holds the
weights for this package and for timm (:mod:`fpnas.timm_models`). Every file carries its class
names and how a picture becomes its input, see :class:`fpnas.training.inference.ModelCard`. The
batch is variable.

Tensor shapes: B pictures, S input size, C classes.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fpnas.errors import FpnasError, InputError
from fpnas.networks.network import Classifier
from fpnas.packages import EXPORT_PACKAGES, require
from fpnas.training.inference import (
    CARD_KEY,
    INPUT_NAME,
    OUTPUT_NAME,
    ModelCard,
    Runner,
    runner,
    save_classifier,
    without_gradients,
)
from fpnas.training.int8 import quiet, write_int8

FILES = ("model.safetensors", "model.pt2", "model.onnx", "model.int8.onnx")
OPSETS = range(18, 24)
"""Versions of ONNX's operators that torch's exporter writes."""

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
    opset: int | None = None,
) -> list[ExportedFile]:
    """Writes all formats, and runs each on the same pictures as the network.

    A file is in the directory when all of them are right, or not at all.

    Args:
        model: On the CPU; put into evaluation mode.
        directory: Created when it is not there.
        card: Goes into every file.
        checked: Pictures to compare on.
        calibration: Pictures (B, 3, S, S) that the ranges of int8 activations are taken from.
        opset: Of the ONNX files, one of :data:`OPSETS`; torch's default when None.

    Returns:
        One record a file, the network itself as ``network`` first.

    Raises:
        InputError: The packages for ONNX are not installed, or do not write the opset.
        ExportError: A float32 file is off by more than :data:`LARGEST_DIFFERENCE`, or ranks
            another class first; or weights or logits are not finite.
    """
    require(*EXPORT_PACKAGES)
    check_opset(opset)
    model = model.eval()
    broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
    if broken:
        raise ExportError(f"the network's weights are not finite: {', '.join(broken[:5])}")
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in FILES]
        weights, program, onnx, int8 = paths
        save_classifier(model, weights, card)
        exported = export_program(model, card.input_size)
        torch.export.save(exported, program, extra_files={CARD_KEY: card.to_json()})
        write_onnx(exported, onnx, card, opset)
        write_int8(onnx, int8, calibration)
        runners = {"network": without_gradients(model)} | {p.name: runner(p) for p in paths}
        found = _compare(runners, checked, {path.name: path.stat().st_size for path in paths})
        for record in found[:-1]:
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


def check_opset(opset: int | None) -> None:
    """Makes sure that an opset can be written.

    Raises:
        InputError: It cannot.
    """
    if opset is not None and opset not in OPSETS:
        raise InputError(
            "--opset",
            opset,
            "is not written by torch's exporter",
            legal=f"{OPSETS[0]} to {OPSETS[-1]}",
            fix="leave it out, or use a runtime that reads one of these",
        )


def opset_of(path: Path) -> int:
    """Opset of an ONNX file."""
    import onnx

    proto = onnx.load(path, load_external_data=False)
    return int(max(entry.version for entry in proto.opset_import if not entry.domain))


def export_program(model: Classifier, input_size: int) -> torch.export.ExportedProgram:
    """Traces a classifier in evaluation mode, with a variable batch."""
    # A batch of 1 would be taken for a constant.
    example = torch.zeros(2, 3, input_size, input_size)
    return torch.export.export(
        model, (example,), dynamic_shapes=({0: torch.export.Dim("batch", max=2**16)},)
    )


def write_onnx(
    exported: torch.export.ExportedProgram, path: Path, card: ModelCard, opset: int | None = None
) -> None:
    """Writes ONNX.

    Args:
        exported: From :func:`export_program`.
        path: Where to.
        card: Goes into the file.
        opset: One of :data:`OPSETS`; torch's default when None.

    Raises:
        ExportError: The installed torch has written another opset.
    """
    import onnx

    with quiet():
        program = torch.onnx.export(
            exported,
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            opset_version=opset,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    # The exporter only warns when it cannot convert to the opset.
    written = [entry.version for entry in proto.opset_import if not entry.domain]
    if opset is not None and written != [opset]:
        raise ExportError(f"torch {torch.__version__} wrote the opset {written}, not {opset}")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    proto.metadata_props.add(key=CARD_KEY, value=card.to_json())
    onnx.checker.check_model(proto)
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
            if not logits.isfinite().all():
                # No comparison would tell: every one with NaN is false.
                raise ExportError(f"{name} gives logits that are not finite")
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
