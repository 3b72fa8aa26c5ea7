"""The supernet of differentiable search: one network that holds every choice at full width.

This is the baseline that FP-NAS is compared with, FBNetV2's DNAS. Every block type (kernel,
activation, splits) is a layer with weights of its own; the outputs of all types are mixed. A width
is chosen by a mask: y = b(x) * M with M = sum_i g_i 1_i, where 1_i has i leading ones and g are the
gates of the widths. One pass computes and keeps everything, which is what makes this search
expensive in time and in memory.

What the FBNetV2 paper leaves open to us, and is thus our choice:

* A mid width follows from the input width and the expansion, both of which are mixed. Its mask is
  the mixture over the pairs, sum_we g_w g_e 1_mid(w, e), so that at one-hot gates the network is
  exactly an architecture of the space, with the MACs that the cost table has for it.
* The input is added to the output (a residual, or a block that is bypassed) with the probability
  that the two widths agree; the first block of a group may have other widths than its input, the
  other blocks share its gates and never do. It carries the mask of its own layer already, and is
  not masked again.
* Batch normalization uses the statistics of the batch, as :class:`fpnas.networks.supernet.Supernet`
  does.

Tensor shapes: G block groups, M = 5 variables, C choices (padded), B pictures, W input widths,
E expansions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpnas.architecture import expanded_channels
from fpnas.cost import attention_channels
from fpnas.networks.network import SplitAttention, initialize, merge_branches, pooled_sum
from fpnas.networks.supernet import AbstractSupernet, SharedConvNorm
from fpnas.space import (
    ACTIVATION,
    CHANNELS,
    EXPANSION,
    KERNEL,
    SPLITS,
    BlockGroup,
    SearchSpace,
)


class MidMasks(nn.Module):
    """Masks of the channels inside a block, for the expansions that can share layers.

    Args:
        widths: Of the input.
        expansions: Of the block's group.
        expands: Which of them are meant: those with an expanding layer, or expansion 1, which has
            none and works on the channels of the input.
    """

    def __init__(self, widths: Sequence[int], expansions: Sequence[float], expands: bool) -> None:
        super().__init__()
        self.expands = expands
        self.indices = [i for i, e in enumerate(expansions) if (e != 1) == expands]
        self.takes_all = len(self.indices) == len(expansions)
        mids = [[int(expanded_channels(w, expansions[i])) for i in self.indices] for w in widths]
        self.mid_masks: Tensor  # (W, E, channels)
        self.hidden_masks: Tensor
        self.register_buffer("mid_masks", leading_ones(mids), persistent=False)
        hidden = attention_channels(np.array(mids))
        self.register_buffer("hidden_masks", leading_ones(hidden), persistent=False)

    def forward(self, width_gates: Tensor, expansion_gates: Tensor) -> tuple[Tensor, Tensor]:
        """Masks of the expanded channels and of the attention's hidden ones, from (W,) and (E,)."""
        pairs = torch.outer(width_gates, expansion_gates[self.indices])
        return (
            torch.einsum("we,wec->c", pairs, self.mid_masks),
            torch.einsum("we,wec->c", pairs, self.hidden_masks),
        )


class BlockType(nn.Module):
    """An MBConv layer at the largest widths, without its residual, under a mask inside.

    Args:
        in_channels: Widest input.
        mid: Widest expanded width.
        out_channels: Widest output.
        kernel: Not 0.
        activation: A name that :data:`fpnas.networks.supernet.ACTIVATION_FUNCTIONS` has.
        splits: 0 for no attention.
        stride: Of the depthwise convolutions.
        expands: Whether there is an expanding layer.
    """

    def __init__(
        self,
        in_channels: int,
        mid: int,
        out_channels: int,
        *,
        kernel: int,
        activation: str,
        splits: int,
        stride: int,
        expands: bool,
    ) -> None:
        super().__init__()
        self.mid, self.out_channels = mid, out_channels
        self.kernel, self.activation, self.splits, self.stride = kernel, activation, splits, stride
        self.expand = SharedConvNorm(in_channels, mid) if expands else None
        self.depthwise = SharedConvNorm(mid, mid, kernel, branches=max(splits, 1))
        self.attention = SplitAttention(mid, splits) if splits else None
        self.project = SharedConvNorm(mid, out_channels)
        if self.attention is not None:
            initialize(self.attention)

    def forward(self, images: Tensor, mid_mask: Tensor, hidden_mask: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to (B, C_out, H / stride, W / stride), all channels."""
        mid, activation = self.mid, self.activation
        if self.expand is not None:
            images = self.expand(images, mid, activation=activation)
        branches = [
            self.depthwise(
                images,
                mid,
                kernel=self.kernel,
                stride=self.stride,
                branch=branch,
                activation=activation,
            )
            for branch in range(max(self.splits, 1))
        ]
        # Everything before is done channel by channel: one mask here is enough.
        merged = branches[0]
        if self.attention is not None:
            pooled = pooled_sum(branches) * mid_mask
            hidden = F.relu(self.attention.reduce(pooled)) * hidden_mask
            scores = self.attention.expand(hidden).unflatten(1, (self.splits, mid))
            merged = merge_branches(branches, scores)
        projected: Tensor = self.project(merged * mid_mask[:, None, None], self.out_channels)
        return projected


class MaskedBlock(nn.Module):
    """All types of a block, mixed.

    Args:
        group: The block's group.
        widths: Widths that the input may have, in the order of its gates.
        is_first: Whether it is the first block of its group.
    """

    def __init__(self, group: BlockGroup, widths: Sequence[int], *, is_first: bool) -> None:
        super().__init__()
        self.group, self.is_first = group, is_first
        self.stride = group.stride if is_first else 1
        values: list[tuple[Any, ...]] = [choice.values for choice in group.choices]
        self.out_channels = max(values[CHANNELS])
        self.masks = nn.ModuleList(
            MidMasks(widths, values[EXPANSION], expands)
            for expands in (True, False)
            if any((e != 1) == expands for e in values[EXPANSION])
        )
        # (index into masks, kernel, activation, splits) of every type, as indices of the choices.
        self.terms = [
            term
            for term in product(range(len(self.masks)), *map(range, map(len, values[KERNEL:])))
            if values[KERNEL][term[1]]
        ]
        self.types = nn.ModuleList(self._type(max(widths), values, term) for term in self.terms)
        same = np.equal.outer(widths, values[CHANNELS]) & (self.stride == 1)
        self.same: Tensor  # (W, output widths)
        self.out_masks: Tensor  # (output widths, channels)
        self.register_buffer("same", torch.from_numpy(same).float(), persistent=False)
        self.register_buffer("out_masks", leading_ones(values[CHANNELS]), persistent=False)
        changes_shape = is_first and not same.all()
        self.bypass = (
            SharedConvNorm(max(widths), self.out_channels)
            if 0 in values[KERNEL] and changes_shape
            else None
        )

    def _type(
        self, in_channels: int, values: list[tuple[Any, ...]], term: tuple[int, ...]
    ) -> BlockType:
        masks = self.masks[term[0]]
        assert isinstance(masks, MidMasks)
        return BlockType(
            in_channels,
            masks.mid_masks.shape[-1],
            self.out_channels,
            kernel=values[KERNEL][term[1]],
            activation=values[ACTIVATION][term[2]],
            splits=values[SPLITS][term[3]],
            stride=self.stride,
            expands=masks.expands,
        )

    def forward(self, images: Tensor, width_gates: Tensor, gates: Tensor) -> Tensor:
        """Mixes all types: (B, C_in, H, W) to (B, C_out, H / stride, W / stride).

        Args:
            images: Masked by the layer that they come from.
            width_gates: Of the widths of the input, (W,).
            gates: Of the group, (M, C).
        """
        own = [row[: len(c)] for row, c in zip(gates, self.group.choices, strict=True)]
        masks = [
            (
                *kind(width_gates, own[EXPANSION]),
                1.0 if kind.takes_all else own[EXPANSION][kind.indices].sum(),
            )
            for kind in self.masks
        ]
        mixed = []
        for (kind, kernel, activation, splits), block_type in zip(
            self.terms, self.types, strict=True
        ):
            mid_mask, hidden_mask, share = masks[kind]
            weight = own[KERNEL][kernel] * own[ACTIVATION][activation] * own[SPLITS][splits] * share
            mixed.append(weight * block_type(images, mid_mask, hidden_mask))
        agreement = self._agreement(width_gates, own[CHANNELS])
        if self.bypass is not None:
            zero = self.group.choices[KERNEL].values.index(0)
            bypassed = self.bypass(images, self.out_channels, stride=self.stride, activation="relu")
            mixed.append(own[KERNEL][zero] * (1.0 - agreement) * bypassed)
        masked = sum(mixed) * (own[CHANNELS] @ self.out_masks)[:, None, None] if mixed else 0.0
        if self.is_first and not self.same.any():
            assert isinstance(masked, Tensor)
            return masked
        # Residual or bypassed, it is the same input; the weights of the types and of kernel 0 sum
        # to one. Negative padding crops.
        widened = F.pad(images, (0, 0, 0, 0, 0, self.out_channels - images.shape[1]))
        return masked + agreement * widened

    def _agreement(self, width_gates: Tensor, channel_gates: Tensor) -> Tensor:
        """Probability that input and output have one shape, a scalar."""
        if not self.is_first:
            return channel_gates.new_ones(())  # the same gates, not equal ones
        return width_gates @ self.same @ channel_gates


class MaskedSupernet(AbstractSupernet):
    """Every choice of a space at once, under gates.

    Initialization draws from torch's global generator: seed it before construction.
    """

    def __init__(self, space: SearchSpace, num_classes: int) -> None:
        super().__init__()
        self.space = space
        self.stem = SharedConvNorm(3, space.stem_channels, 3)
        self.blocks = nn.ModuleList()
        widths: tuple[int, ...] = (space.stem_channels,)
        for group in space.groups:
            for index in range(group.repeat):
                self.blocks.append(MaskedBlock(group, widths, is_first=index == 0))
                widths = group.choices[CHANNELS].values
        self.head = SharedConvNorm(max(widths), space.head_channels)
        self.classifier = nn.Linear(space.head_channels, num_classes)
        initialize(self.classifier)

    def forward(self, images: Tensor, gates: Tensor) -> Tensor:
        """Maps normalized pictures (B, 3, H, W) to logits (B, classes).

        Args:
            images: The pictures.
            gates: For every variable of every group the weights of its choices, which sum to one,
                (G, M, C); what stands in the padding is not read.
        """
        features = self.stem_features(images)
        width_gates = gates.new_ones(1)
        blocks = iter(self.blocks)
        for group, own in zip(self.space.groups, gates, strict=True):
            for _ in range(group.repeat):
                features = next(blocks)(features, width_gates, own)
                width_gates = own[CHANNELS, : len(group.choices[CHANNELS])]
        return self.logits(features)


def leading_ones(widths: Any) -> Tensor:
    """The vectors 1_i: for widths of any shape (...), masks (..., widest) with i leading ones."""
    counts = torch.as_tensor(np.asarray(widths).astype(np.int64))
    return (torch.arange(int(counts.max())) < counts.unsqueeze(-1)).float()
