"""An architecture: one point of a search space, complete enough to build the network from."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fpnas.errors import InputError
from fpnas.space import SearchSpace

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class GroupSpec:
    """The chosen values of one block group.

    ``kernel`` 0 bypasses the blocks: identity, or a 1x1 convolution where stride or channels
    change. ``splits`` is 0 for no attention, 1 for squeeze-and-excitation, 2 or 4 for
    Split-Attention.
    """

    expansion: float
    channels: int
    kernel: int
    activation: str
    splits: int
    repeat: int
    stride: int


@dataclass(frozen=True)
class BlockSpec:
    """One block as it is built: absolute widths, its own stride.

    Equal blocks compute the same: a bypassed one has no expansion, activation or attention.
    """

    in_channels: int
    mid_channels: int
    out_channels: int
    kernel: int
    activation: str
    splits: int
    stride: int
    expand: bool

    @property
    def is_identity(self) -> bool:
        """Whether the block is bypassed without any operation."""
        return self.kernel == 0 and self.stride == 1 and self.in_channels == self.out_channels

    @property
    def has_residual(self) -> bool:
        """Whether the block adds its input to its output."""
        return self.kernel > 0 and self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True)
class Architecture:
    """A point of a search space. Independent of the number of classes and of any weights."""

    space: str
    model: str
    input_size: int
    stem_channels: int
    stem_stride: int
    groups: tuple[GroupSpec, ...]
    head_channels: int

    def blocks(self) -> list[BlockSpec]:
        """Returns the blocks from input to output, the bypassed ones included."""
        blocks, channels = [], self.stem_channels
        for group in self.groups:
            bypassed = group.kernel == 0
            for index in range(group.repeat):
                mid = 0 if bypassed else int(expanded_channels(channels, group.expansion))
                blocks.append(
                    BlockSpec(
                        in_channels=channels,
                        mid_channels=mid,
                        out_channels=group.channels,
                        kernel=group.kernel,
                        activation="" if bypassed else group.activation,
                        splits=0 if bypassed else group.splits,
                        stride=group.stride if index == 0 else 1,
                        expand=not bypassed and group.expansion != 1,
                    )
                )
                channels = group.channels
        return blocks

    def to_json(self) -> dict[str, Any]:
        """Returns the JSON object that :meth:`from_json` reads."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Reads an architecture from its JSON object.

        Raises:
            InputError: Another schema version, or fields that are missing or unknown.
        """
        fields = dict(data)
        version = fields.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise InputError(
                "schema_version",
                version,
                "is not readable by this version",
                legal=str(SCHEMA_VERSION),
                fix="use the version of fpnas that wrote the file",
            )
        try:
            groups = tuple(GroupSpec(**group) for group in fields.pop("groups"))
            return cls(groups=groups, **fields)
        except (KeyError, TypeError) as error:
            raise InputError(
                "architecture", sorted(data), f"has wrong fields: {error}", fix="decode it again"
            ) from error

    @property
    def sha256(self) -> str:
        """Digest of the canonical JSON: equal for equal architectures."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def num_layers(self) -> int:
        """The number of blocks that are not bypassed."""
        return sum(block.kernel > 0 for block in self.blocks())

    def __str__(self) -> str:
        """The architecture as one line.

        Grammar: ``stem "-" group { "-" group } "-" head "@" input_size``; ``stem`` is
        ``c<channels>s<stride>``, ``head`` is ``c<channels>``; ``group`` is
        ``[<repeat>x] "e"<expansion> "c"<channels> "k"<kernel> ("r"|"s") ["a"<splits>]
        ["d"<stride>]`` with ``r`` for ReLU and ``s`` for swish, attention and stride only where
        they are not 0 and 1, and a bypassed group is
        ``[<repeat>x] "skip" "c"<channels> ["d"<stride>]``.
        """
        parts = [f"c{self.stem_channels}s{self.stem_stride}"]
        for group in self.groups:
            count = f"{group.repeat}x" if group.repeat > 1 else ""
            stride = f"d{group.stride}" if group.stride > 1 else ""
            if group.kernel == 0:
                parts.append(f"{count}skipc{group.channels}{stride}")
                continue
            attention = f"a{group.splits}" if group.splits else ""
            parts.append(
                f"{count}e{group.expansion:g}c{group.channels}k{group.kernel}"
                f"{group.activation[0]}{attention}{stride}"
            )
        return "-".join([*parts, f"c{self.head_channels}"]) + f"@{self.input_size}"


_STEM = re.compile(r"c(?P<channels>\d+)s(?P<stride>\d+)")
_GROUP = re.compile(
    r"(?:(?P<repeat>\d+)x)?"
    r"(?:skip|e(?P<expansion>\d+(?:\.\d+)?))c(?P<channels>\d+)"
    r"(?(expansion)k(?P<kernel>\d+)(?P<activation>[rs])(?:a(?P<splits>\d+))?)"
    r"(?:d(?P<stride>\d+))?"
)
_END = re.compile(r"c(?P<channels>\d+)@(?P<input_size>\d+)")


def parse_architecture(text: str, *, space: str = "", model: str = "") -> Architecture:
    """Reads an architecture from its line; see :meth:`Architecture.__str__`.

    What the line does not say of bypassed blocks, which compute the same without it, gets a
    default; so the digest may differ from that of the architecture that was written.

    Args:
        text: The line.
        space: Name of its space.
        model: Name of its operating point.

    Raises:
        InputError: The line does not follow the grammar.

    >>> str(parse_architecture("c16s2-e4.5c24k5sa2d2-2xskipc24-c128@64"))
    'c16s2-e4.5c24k5sa2d2-2xskipc24-c128@64'
    """
    first, *middle, last = text.split("-") if text.count("-") else (text, "")
    stem, end = _STEM.fullmatch(first), _END.fullmatch(last)
    groups = [_GROUP.fullmatch(part) for part in middle]
    if stem is None or end is None or not middle or None in groups:
        raise InputError(
            "architecture",
            text,
            "is not an architecture in one line",
            legal="such as c16s2-e4.5c24k5sa2d2-2xskipc24-c128@64",
            fix="copy it from decode.json or from the report",
        )
    return Architecture(
        space=space,
        model=model,
        input_size=int(end["input_size"]),
        stem_channels=int(stem["channels"]),
        stem_stride=int(stem["stride"]),
        groups=tuple(_group(found) for found in groups if found is not None),
        head_channels=int(end["channels"]),
    )


def _group(found: re.Match[str]) -> GroupSpec:
    return GroupSpec(
        expansion=float(found["expansion"] or 1),
        channels=int(found["channels"]),
        kernel=int(found["kernel"] or 0),
        activation={"s": "swish"}.get(found["activation"], "relu"),
        splits=int(found["splits"] or 0),
        repeat=int(found["repeat"] or 1),
        stride=int(found["stride"] or 1),
    )


def mid_channels(in_channels: Any, expansion: Any) -> Any:
    """Width inside a block: a multiple of 8 nearest to the product, at least 8.

    Works on numbers and on numpy arrays. Source: the paper's rounding; ties go up.
    """
    width = in_channels * expansion
    rounded = (width + 4) // 8 * 8
    return rounded + (rounded < 8) * (8 - rounded)


def expanded_channels(in_channels: Any, expansion: Any) -> Any:
    """Width of the depthwise convolution; without an expanding layer it is that of the input.

    Works on numbers and on numpy arrays.
    """
    keeps = expansion == 1
    return mid_channels(in_channels, expansion) * (1 - keeps) + in_channels * keeps


def architecture_at(space: SearchSpace, choices: Sequence[Sequence[int]]) -> Architecture:
    """Returns the architecture at a point of a space.

    Args:
        space: The search space.
        choices: Indices into the values of every variable, shape (G, M).
    """
    groups = []
    for group, indices in zip(space.groups, choices, strict=True):
        values = {
            choice.name: choice.values[int(index)]
            for choice, index in zip(group.choices, indices, strict=True)
        }
        groups.append(GroupSpec(**values, repeat=group.repeat, stride=group.stride))
    return Architecture(
        space=space.name,
        model=space.model,
        input_size=space.input_size,
        stem_channels=space.stem_channels,
        stem_stride=space.stem_stride,
        groups=tuple(groups),
        head_channels=space.head_channels,
    )


def largest_architecture(space: SearchSpace) -> Architecture:
    """Returns the architecture with every variable at its largest; swish costs most memory."""
    choices = [
        [choice.values.index(max(choice.values)) for choice in group.choices]
        for group in space.groups
    ]
    return architecture_at(space, choices)
