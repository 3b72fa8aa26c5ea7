"""Static int8 quantization of an exported classifier.

Tensor shapes: B pictures, S input size.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from fpnas.training.inference import CARD_KEY, INPUT_NAME

_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Int8Recipe:
    """What is quantized, and how the ranges of activations are found.

    The defaults are our choice. ``results/int8.csv`` has ten ways over nine networks: their mean
    losses of top-1 lie within 0.22 points, less than one picture in 359, so none is better.

    Attributes:
        calibration: ``minmax`` takes the extremes, ``percentile`` cuts at :attr:`percentile`,
            ``entropy`` loses the least information.
        percentile: Share of the values inside the range, in percent.
        only_weighted: Quantize convolutions and linear layers alone; what is computed element by
            element, such as swish and gates, stays in float.
        floats: Layers that stay in float: ``first`` convolution, ``last`` linear layer, and the
            linear layers of the attention ``gates``.
        reduce_range: Weights of 7 bits: sums of two products stay within 16 bits, in which AVX2
            processors without VNNI add them.
    """

    calibration: Literal["minmax", "percentile", "entropy"] = "percentile"
    percentile: float = 99.999
    only_weighted: bool = False
    floats: tuple[Literal["first", "last", "gates"], ...] = ()
    reduce_range: bool = False


def write_int8(
    source: Path,
    path: Path,
    calibration: Iterable[Tensor],
    recipe: Int8Recipe | None = None,
) -> None:
    """Quantizes ONNX statically: int8 weights a channel, uint8 activations.

    One batch is in memory at a time, with all activations of the network.

    Args:
        source: The float32 file.
        path: Where to.
        calibration: Pictures (B, 3, S, S).
        recipe: How; the default one when None.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    recipe = recipe or Int8Recipe()
    methods = {
        "minmax": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    options: dict[str, Any] = {"CalibStridedMinMax": 1}  # one batch at a time; for any method
    if recipe.calibration == "percentile":
        options["CalibPercentile"] = recipe.percentile
    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            _reader(calibration),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(_WITH_WEIGHTS) if recipe.only_weighted else None,
            nodes_to_exclude=_left_in_float(onnx.load(prepared), recipe.floats),
            per_channel=True,
            reduce_range=recipe.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[recipe.calibration],
            extra_options=options,
        )
    proto = onnx.load(path)
    if not any(entry.key == CARD_KEY for entry in proto.metadata_props):
        proto.metadata_props.extend(onnx.load(source).metadata_props)
        onnx.save(proto, path)


def _left_in_float(proto: Any, floats: Iterable[str]) -> list[str]:
    """Names of the nodes that are not quantized."""
    convolutions = [node.name for node in proto.graph.node if node.op_type == "Conv"]
    linear = [node.name for node in proto.graph.node if node.op_type in ("Gemm", "MatMul")]
    layers = {"first": convolutions[:1], "last": linear[-1:], "gates": linear[:-1]}
    return [name for kind in floats for name in layers[kind]]


def _reader(calibration: Iterable[Tensor]) -> Any:
    """Gives batches to ONNX Runtime, which asks for them in ranges and more than once."""
    from onnxruntime.quantization import CalibrationDataReader

    batches = [{INPUT_NAME: batch.numpy()} for batch in calibration]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._rest = iter(batches[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            return next(self._rest, None)

    return Reader()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
