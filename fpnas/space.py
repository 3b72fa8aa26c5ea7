"""Search spaces: loaded from YAML, validated, and opened at one of their operating points.

A space file lists block groups in the notation of the FBNetV2-F table of the FP-NAS paper
(section 2.1 of its search spaces): a range is ``[min, max, step]``, a single number is fixed.
Every group has five variables, always in the order of :data:`VARIABLES`.

Tensor shapes: A sampled architectures, G block groups, M = 5 variables, C choices (padded).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fpnas.errors import InputError, closest

VARIABLES = ("expansion", "channels", "kernel", "activation", "splits")
EXPANSION, CHANNELS, KERNEL, ACTIVATION, SPLITS = range(5)
SPACES_DIR = Path(__file__).parent / "spaces"


@dataclass(frozen=True)
class Choice:
    """One variable of a block group: its name and the values it may take."""

    name: str
    values: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class BlockGroup:
    """Blocks that share their choices: the first has ``stride``, the other ones stride 1."""

    choices: tuple[Choice, ...]
    repeat: int
    stride: int

    @property
    def size(self) -> int:
        """The number of distinct choices of this group."""
        return math.prod(len(choice) for choice in self.choices)


@dataclass(frozen=True)
class SearchSpace:
    """A search space at an operating point.

    Attributes:
        name: Name of the space file.
        model: Name of the operating point.
        input_size: Height and width of the pictures, in pixels.
        target_macs: The budget, in multiply-accumulates.
        stem_channels: Output channels of the first 3x3 convolution.
        stem_stride: Its stride.
        head_channels: Output channels of the last 1x1 convolution.
        groups: The block groups, from input to output.
    """

    name: str
    model: str
    input_size: int
    target_macs: int
    stem_channels: int
    stem_stride: int
    head_channels: int
    groups: tuple[BlockGroup, ...]

    @property
    def num_groups(self) -> int:
        """The number of independent block groups (G)."""
        return len(self.groups)

    @property
    def num_blocks(self) -> int:
        """The number of blocks when none is skipped."""
        return sum(group.repeat for group in self.groups)

    @property
    def size(self) -> int:
        """The number of points of the space, as an exact integer."""
        return math.prod(group.size for group in self.groups)

    @property
    def uniform_entropy_nats(self) -> float:
        """Entropy of the uniform distribution, in nats: the logarithm of the size."""
        return sum(math.log(group.size) for group in self.groups)

    @property
    def num_factorized_parameters(self) -> int:
        """Parameters of the factorized distribution; a variable with one choice has none."""
        return sum(len(c) for group in self.groups for c in group.choices if len(c) > 1)

    @property
    def num_joint_parameters(self) -> int:
        """Parameters of the joint distribution."""
        return sum(group.size for group in self.groups if group.size > 1)

    @cached_property
    def total_stride(self) -> int:
        """Input pixels per output pixel, in each direction."""
        return self.stem_stride * math.prod(group.stride for group in self.groups)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Range = list[float] | float
Activation = Literal["relu", "swish"]


class _Micro(_Strict):
    kernel: list[Literal[0, 3, 5]] = Field(min_length=1)
    activation: list[Activation] = Field(min_length=1)
    splits: list[Literal[0, 1, 2, 4]] = Field(min_length=1)


class _Row(_Strict):
    expansion: Range
    channels: Range
    repeat: int = Field(ge=0)
    stride: Literal[1, 2]
    kernel: list[Literal[0, 3, 5]] | None = Field(default=None, min_length=1)
    activation: list[Activation] | None = Field(default=None, min_length=1)
    splits: list[Literal[0, 1, 2, 4]] | None = Field(default=None, min_length=1)


class _Conv(_Strict):
    channels: int = Field(ge=1)
    stride: Literal[1, 2] = 1


class Model(_Strict):
    """An operating point of a space: where a search starts and what it aims at."""

    input_size: int = Field(ge=1)
    target_macs: int = Field(ge=1)
    repeats: list[int] | None = None


class SpaceFile(_Strict):
    """A space file as it stands; :meth:`open` gives the space at an operating point."""

    name: str = Field(min_length=1)
    description: str
    granularity: Literal["group", "block"] = "group"
    choices: _Micro
    stem: _Conv
    groups: list[_Row] = Field(min_length=1)
    head: _Conv
    models: dict[str, Model] = Field(min_length=1)

    @property
    def default_model(self) -> str:
        """The first operating point of the file."""
        return next(iter(self.models))

    def open(
        self,
        model: str | None = None,
        *,
        input_size: int | None = None,
        target_macs: int | None = None,
    ) -> SearchSpace:
        """Opens the space at an operating point.

        Args:
            model: Name of the operating point; the file's first one by default.
            input_size: Overrides the operating point's input size, in pixels.
            target_macs: Overrides its budget. Not checked here against what is reachable.

        Raises:
            InputError: The model is not in the space, or the input is too small for the strides.
        """
        model = model or self.default_model
        if model not in self.models:
            raise InputError(
                "MODEL",
                model,
                f"is not in the space {self.name}",
                legal=", ".join(self.models),
                fix=closest(model, self.models),
            )
        point = self.models[model]
        space = SearchSpace(
            name=self.name,
            model=model,
            input_size=point.input_size if input_size is None else input_size,
            target_macs=point.target_macs if target_macs is None else target_macs,
            stem_channels=self.stem.channels,
            stem_stride=self.stem.stride,
            head_channels=self.head.channels,
            groups=self._block_groups(point.repeats),
        )
        if space.input_size < space.total_stride:
            raise InputError(
                "input_size",
                space.input_size,
                f"is too small for the strides of {self.name}, which divide it by "
                f"{space.total_stride}",
                legal=f"at least {space.total_stride}",
                fix=f"use an input size of {space.total_stride} or more",
            )
        return space

    def _block_groups(self, repeats: list[int] | None) -> tuple[BlockGroup, ...]:
        groups: list[BlockGroup] = []
        stride = 1
        for row, repeat in zip(
            self.groups, repeats or [r.repeat for r in self.groups], strict=True
        ):
            if repeat == 0:
                stride *= row.stride  # an absent group must not change the resolution of others
                continue
            group = BlockGroup(self._choices(row), repeat, row.stride * stride)
            stride = 1
            if self.granularity == "group":
                groups.append(group)
            else:
                groups.append(BlockGroup(group.choices, 1, group.stride))
                groups.extend(BlockGroup(group.choices, 1, 1) for _ in range(repeat - 1))
        return tuple(groups)

    def _choices(self, row: _Row) -> tuple[Choice, ...]:
        return (
            Choice("expansion", tuple(_expand(row.expansion))),
            Choice("channels", tuple(int(c) for c in _expand(row.channels))),
            Choice("kernel", tuple(row.kernel or self.choices.kernel)),
            Choice("activation", tuple(row.activation or self.choices.activation)),
            Choice("splits", tuple(row.splits or self.choices.splits)),
        )


def _expand(value: Range) -> list[float]:
    if not isinstance(value, list):
        return [value]
    low, high, step = value
    return [low + index * step for index in range(round((high - low) / step) + 1)]


def available_spaces() -> dict[str, Path]:
    """Returns the spaces that come with the package, by name."""
    return {path.stem: path for path in sorted(SPACES_DIR.glob("*.yaml"))}


def load_space(name_or_path: str) -> SpaceFile:
    """Loads a space by name, or a user's own file by path.

    Raises:
        InputError: Unknown name, unreadable file, unknown key, a step that does not fit its
            range, an empty choice, or repeats that do not match the groups.
    """
    known = available_spaces()
    if name_or_path in known:
        path = known[name_or_path]
    elif name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path)
        if not path.is_file():
            raise InputError("SPACE", name_or_path, "does not exist", fix="give the path of a file")
    else:
        raise InputError(
            "SPACE",
            name_or_path,
            "is not a known space",
            legal=f"{', '.join(known)}, or the path of a .yaml file",
            fix=closest(name_or_path, known),
        )
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            "SPACE", path, f"is not valid YAML: {error}", fix="correct the file"
        ) from error
    return parse_space(data, str(path))


def parse_space(data: Any, origin: str) -> SpaceFile:
    """Validates a space given as parsed YAML; see :func:`load_space` for the errors."""
    if not isinstance(data, Mapping):
        raise InputError("SPACE", origin, "is not a mapping", fix="start from one of fpnas/spaces")
    try:
        space = SpaceFile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            field,
            first.get("input"),
            f"is wrong in {origin}: {first['msg']}",
            fix=_fix_for(first["type"], str(first["loc"][-1]) if first["loc"] else ""),
        ) from error
    for index, row in enumerate(space.groups):
        _check_range(f"groups.{index}.expansion", row.expansion, origin)
        _check_range(f"groups.{index}.channels", row.channels, origin, integer=True)
        for field in ("kernel", "activation", "splits"):
            _check_distinct(f"groups.{index}.{field}", getattr(row, field), origin)
    for field in ("kernel", "activation", "splits"):
        _check_distinct(f"choices.{field}", getattr(space.choices, field), origin)
    for name, model in space.models.items():
        if model.repeats is not None and len(model.repeats) != len(space.groups):
            raise InputError(
                f"models.{name}.repeats",
                model.repeats,
                f"has {len(model.repeats)} entries in {origin} for {len(space.groups)} groups",
                legal=f"{len(space.groups)} integers, 0 for an absent group",
                fix="give one number for each group",
            )
        repeats = model.repeats or [row.repeat for row in space.groups]
        if min(repeats) < 0 or max(repeats) < 1:
            raise InputError(
                f"models.{name}.repeats", repeats, f"leaves no block in {origin}", fix="raise one"
            )
    return space


def _check_distinct(field: str, values: list[Any] | None, origin: str) -> None:
    if values is not None and len(set(values)) < len(values):
        raise InputError(
            field, values, f"names a choice twice (in {origin})", fix="leave the second one out"
        )


def _fix_for(error_type: str, key: str) -> str:
    if error_type == "extra_forbidden":
        keys = {
            *SpaceFile.model_fields,
            *_Row.model_fields,
            *Model.model_fields,
            *_Conv.model_fields,
        }
        return f"remove the key, or {closest(key, keys)}"
    if error_type == "too_short":
        return "give at least one value"
    if error_type == "missing":
        return "add the key"
    return "correct the value"


def _check_range(field: str, value: Range, origin: str, *, integer: bool = False) -> None:
    problem = ""
    values = value if isinstance(value, list) else [value]
    if not all(math.isfinite(number) for number in values):
        problem = "must be finite"
    elif isinstance(value, list):
        if len(value) != 3:
            problem = "is not [min, max, step]"
        elif not (value[0] > 0 and value[2] > 0 and value[1] >= value[0]):
            problem = "needs 0 < min <= max and step > 0"
        elif not math.isclose((steps := (value[1] - value[0]) / value[2]), round(steps)):
            problem = "has a step that does not fit: max - min is not a multiple of it"
    elif value <= 0:
        problem = "must be positive"
    if not problem and integer and any(number != int(number) for number in values):
        problem = "must be whole numbers"
    if problem:
        raise InputError(
            field,
            value,
            f"{problem} (in {origin})",
            legal="[min, max, step] or one number",
            fix="correct the range",
        )
