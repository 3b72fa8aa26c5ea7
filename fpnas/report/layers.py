"""The cost of an architecture layer by layer, for pictures and tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from fpnas.architecture import Architecture, BlockSpec
from fpnas.cost import architecture_cost, output_size


@dataclass(frozen=True)
class Layer:
    """A layer as it is drawn: the stem, a block, or the head with pooling and classifier.

    Attributes:
        name: ``"stem"``, ``"block"`` or ``"head"``.
        group: Index of its block group; None for stem and head.
        block: The block; None for stem and head.
        expansion: The chosen expansion of a block; None for stem and head.
        channels: Output channels.
        in_pixels: Height and width of its input.
        out_pixels: Height and width of its output.
        macs: Its multiply-accumulates.
    """

    name: str
    group: int | None
    block: BlockSpec | None
    expansion: float | None
    channels: int
    in_pixels: int
    out_pixels: int
    macs: int

    @property
    def is_bypassed(self) -> bool:
        """Whether the layer is a block without its operation."""
        return self.block is not None and self.block.kernel == 0


def layers(architecture: Architecture, num_classes: int) -> list[Layer]:
    """Returns the layers from input to output; their MACs add up to the architecture's."""
    single = [
        (index, replace(group, repeat=1, stride=group.stride if position == 0 else 1))
        for index, group in enumerate(architecture.groups)
        for position in range(group.repeat)
    ]
    # Without head and classes the cost of a prefix is that of the stem and its blocks alone.
    prefixes = [
        architecture_cost(
            replace(architecture, groups=tuple(g for _, g in single[:end]), head_channels=0), 0
        )[0]
        for end in range(len(single) + 1)
    ]
    pixels = output_size(architecture.input_size, architecture.stem_stride)
    result = [
        Layer(
            "stem",
            None,
            None,
            None,
            architecture.stem_channels,
            architecture.input_size,
            pixels,
            prefixes[0],
        )
    ]
    for (index, group), block, (before, after) in zip(
        single, architecture.blocks(), pairwise(prefixes), strict=True
    ):
        out = output_size(pixels, block.stride)
        result.append(
            Layer(
                "block",
                index,
                block,
                group.expansion,
                block.out_channels,
                pixels,
                out,
                after - before,
            )
        )
        pixels = out
    total = architecture_cost(architecture, num_classes)[0]
    head_macs = total - prefixes[-1]
    result.append(
        Layer("head", None, None, None, architecture.head_channels, pixels, pixels, head_macs)
    )
    return result
