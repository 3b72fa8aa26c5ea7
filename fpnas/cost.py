"""The cost of architectures in closed form: multiply-accumulates (MACs) and parameters.

MACs are those of convolutions and linear layers, for one picture. Bias, batch normalization,
activations, pooling and residual additions are not counted. This is what the FP-NAS paper calls
FLOPS. Parameters are all trainable ones, batch normalization and biases included.

Tensor shapes: A sampled architectures, G block groups, M = 5 variables.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fpnas.architecture import Architecture, expanded_channels, mid_channels
from fpnas.space import CHANNELS, EXPANSION, KERNEL, SPLITS, SearchSpace

IntArray = NDArray[np.int64]


def attention_channels(mid: Any) -> Any:
    """Hidden width of the attention: a quarter of the expanded width, rounded like it."""
    return mid_channels(mid, 0.25)


def output_size(input_size: int, stride: int) -> int:
    """Height and width after a convolution with "same" padding."""
    return -(-input_size // stride)


def _block_cost(
    in_channels: Any,
    out_channels: Any,
    expansion: Any,
    kernel: Any,
    splits: Any,
    stride: int,
    input_size: int,
) -> tuple[Any, Any]:
    """MACs and parameters of one block; the arguments broadcast against each other."""
    pixels_in, pixels_out = input_size**2, output_size(input_size, stride) ** 2
    mid = expanded_channels(in_channels, expansion)
    expand = np.not_equal(expansion, 1) * in_channels * mid
    # Without an attention there is one depthwise convolution, with r splits there are r.
    branches = np.maximum(splits, 1)
    depthwise = branches * kernel**2 * mid
    hidden = attention_channels(mid)
    attention = (splits > 0) * (1 + splits) * mid * hidden
    project = mid * out_channels
    macs = expand * pixels_in + (depthwise + project) * pixels_out + attention
    norms = 2 * (np.not_equal(expansion, 1) * mid + branches * mid + out_channels)
    biases = (splits > 0) * (hidden + splits * mid)
    params = expand + depthwise + attention + project + norms + biases

    bypass = in_channels * out_channels * ((in_channels != out_channels) | (stride != 1))
    bypass_params = bypass + 2 * out_channels * (bypass > 0)
    skip = np.equal(kernel, 0)
    return (
        np.where(skip, bypass * pixels_out, macs).astype(np.int64),
        np.where(skip, bypass_params, params).astype(np.int64),
    )


@dataclass(frozen=True)
class CostModel:
    """Cost of every architecture of a space, from one table a block group.

    A group's cost depends on its own choices and on the width that reaches it, so the tables have
    shape (input widths, *choices of the group).
    """

    space: SearchSpace
    num_classes: int

    @cached_property
    def _tables(self) -> tuple[list[IntArray], list[IntArray]]:
        size = output_size(self.space.input_size, self.space.stem_stride)
        in_channels: tuple[int, ...] = (self.space.stem_channels,)
        macs_tables, params_tables = [], []
        for group in self.space.groups:
            grid = np.ix_(
                np.array(in_channels), *(np.array(_numbers(c.values)) for c in group.choices)
            )
            width, expansion, channels, kernel, _, splits = grid
            macs, params = _block_cost(
                width, channels, expansion, kernel, splits, group.stride, size
            )
            size = output_size(size, group.stride)
            inner = _block_cost(channels, channels, expansion, kernel, splits, 1, size)
            shape = np.broadcast_shapes(*(axis.shape for axis in grid))
            macs_tables.append(np.broadcast_to(macs + (group.repeat - 1) * inner[0], shape))
            params_tables.append(np.broadcast_to(params + (group.repeat - 1) * inner[1], shape))
            in_channels = group.choices[CHANNELS].values
        return macs_tables, params_tables

    @cached_property
    def _fixed(self) -> tuple[int, int, int]:
        """MACs and parameters outside the groups (without the head), and the last pixels."""
        size = output_size(self.space.input_size, self.space.stem_stride)
        stem, head = self.space.stem_channels, self.space.head_channels
        stem_macs = 27 * stem * size**2
        for group in self.space.groups:
            size = output_size(size, group.stride)
        macs = stem_macs + head * self.num_classes
        params = 27 * stem + 2 * stem + 2 * head + (head + 1) * self.num_classes
        return macs, params, size**2

    @cached_property
    def _end_tables(self) -> tuple[IntArray, IntArray]:
        """MACs and parameters of stem, head and classifier by the last group's channels choice."""
        channels = np.array(self.space.groups[-1].choices[CHANNELS].values, dtype=np.int64)
        macs, params, pixels = self._fixed
        head = channels * self.space.head_channels
        return macs + head * pixels, params + head

    def macs(self, choices: Tensor) -> Tensor:
        """Multiply-accumulates of architectures: (A, G, M) indices to (A,) int64."""
        return self._lookup(choices, self._tables[0], self._end_tables[0])

    def params(self, choices: Tensor) -> Tensor:
        """Parameters of architectures: (A, G, M) indices to (A,) int64."""
        return self._lookup(choices, self._tables[1], self._end_tables[1])

    def _lookup(self, choices: Tensor, tables: list[IntArray], end: IntArray) -> Tensor:
        indices = choices.cpu().numpy()
        width = np.zeros(len(indices), dtype=np.int64)
        total = end[indices[:, -1, CHANNELS]].copy()
        for group, table in enumerate(tables):
            total += table[(width, *indices[:, group].T)]
            width = indices[:, group, CHANNELS]
        return torch.from_numpy(total)

    def group_macs(self) -> tuple[list[IntArray], IntArray]:
        """Returns the tables that the total is the sum of.

        The first are one a group, of shape (input widths, *choices); the last, by the last group's
        channels choice, is everything outside the groups.
        """
        return self._tables[0], self._end_tables[0]

    def expected_macs(self, marginals: list[NDArray[np.float64]]) -> float:
        """Exact expectation under independent groups.

        Args:
            marginals: The probabilities of each group's choices, in the shape of its choices.
        """
        width = np.ones(1)
        total = 0.0
        for probabilities, table in zip(marginals, self._tables[0], strict=True):
            total += float(np.tensordot(width, table, axes=1).ravel() @ probabilities.ravel())
            width = probabilities.sum(axis=tuple(i for i in range(5) if i != CHANNELS))
        return total + float(width @ self._end_tables[0])

    def range_macs(self) -> tuple[int, int]:
        """Exact cheapest and dearest cost of the space, by dynamic programming over widths."""
        low = high = np.zeros(1, dtype=np.int64)
        for table in self._tables[0]:
            other = (1 + EXPANSION, 1 + KERNEL, 4, 1 + SPLITS)  # all axes but the two widths
            low = (low[:, None] + table.min(axis=other)).min(axis=0)
            high = (high[:, None] + table.max(axis=other)).max(axis=0)
        return int((low + self._end_tables[0]).min()), int((high + self._end_tables[0]).max())

    def median_macs(self, *, num_samples: int = 20_000, seed: int = 0) -> int:
        """Median cost of uniformly drawn architectures, by sampling under a fixed seed."""
        generator = np.random.default_rng(seed)
        choices = np.stack(
            [
                np.stack([generator.integers(len(c), size=num_samples) for c in g.choices], 1)
                for g in self.space.groups
            ],
            axis=1,
        )
        return int(np.median(self.macs(torch.from_numpy(choices)).numpy()))


def _numbers(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(range(len(values))) if isinstance(values[0], str) else values


def architecture_cost(architecture: Architecture, num_classes: int) -> tuple[int, int]:
    """MACs and parameters of one architecture, block by block and without tables."""
    size = output_size(architecture.input_size, architecture.stem_stride)
    stem, head = architecture.stem_channels, architecture.head_channels
    macs = 27 * stem * size**2
    params = 29 * stem
    width = stem
    for group in architecture.groups:
        for index in range(group.repeat):
            stride = group.stride if index == 0 else 1
            block = _block_cost(
                width, group.channels, group.expansion, group.kernel, group.splits, stride, size
            )
            macs, params = macs + int(block[0]), params + int(block[1])
            size, width = output_size(size, stride), group.channels
    macs += width * head * size**2 + head * num_classes
    params += width * head + 2 * head + (head + 1) * num_classes
    return macs, params


# Every output element of these is one dot product over a filter.
_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# These have parameters and count as nothing. Layers without any need no list.
_FREE = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)


def count_macs(module: nn.Module, input_size: int) -> int:
    """Counts the MACs of any module for one square picture, by running it on one.

    Independent of the closed form. Convolutions and linear layers count, each time they are called.
    Norms, and layers without weights (activations, pooling, dropout, reshaping), count as nothing,
    and so does a scale or shift of channels that a composite module keeps itself. Whatever else
    has weights is an error, not a zero.

    Only calls of modules are seen. A product of two activations, as inside attention, or a
    convolution through :mod:`torch.nn.functional` with the weight of another module, is missed;
    that a module does so is noticed only if it also keeps a weight itself.

    Args:
        module: The network. Modes, buffers and random states stay as they are: it runs in
            evaluation mode, on its own device and in its own precision.
        input_size: Height and width of the picture, in pixels; it has three channels.

    Raises:
        TypeError: A module has weights and is of none of these kinds; the message names its type.
        ValueError: The input size is not positive.
    """
    if input_size < 1:
        raise ValueError(f"input_size={input_size} must be at least 1 pixel")
    for name, layer in module.named_modules():
        if not _is_countable(layer):
            raise TypeError(
                f"cannot count the MACs of {type(layer).__name__} (at {name or 'the top'}): it has "
                "weights and is no convolution, linear layer or norm; count it by hand"
            )
    total = 0

    def count(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        total += weight[0].numel() * output.numel()

    tensors = itertools.chain(module.parameters(), module.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(()))
    # Not module.train(mode): that would set every module to the mode of the top one afterwards.
    modes = {layer: layer.training for layer in module.modules()}
    handles = [layer.register_forward_hook(count) for layer in modes if isinstance(layer, _COUNTED)]
    try:
        for layer in modes:
            layer.training = False
        with torch.no_grad():
            module(like.new_zeros(1, 3, input_size, input_size))
    finally:
        for handle in handles:
            handle.remove()
        for layer, mode in modes.items():
            layer.training = mode
    return total


def _is_countable(layer: nn.Module) -> bool:
    """Whether a module, its children apart, has no weights that it might multiply with."""
    if isinstance(layer, _COUNTED + _FREE):
        return True
    parameters = list(layer.parameters(recurse=False))
    if parameters and next(layer.children(), None) is None:
        return False
    # What is long in one dimension only can scale or shift channels, but is no filter. Buffers may
    # be filters too, such as those of a fixed blur.
    own = [*parameters, *layer.buffers(recurse=False)]
    return all(max(tensor.shape, default=1) == tensor.numel() for tensor in own)
