"""The options of a differentiable search, light to import as those of every search."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from fpnas.errors import InputError


@dataclass(frozen=True)
class DnasOptions:
    """What a differentiable search needs beside :class:`fpnas.search.options.SearchOptions`.

    The temperature falls exponentially between the two over the steps of the phase. FBNet, from
    which FBNetV2 comes, has 5.0 * exp(-0.045 * epoch).

    Attributes:
        temperature: Of the Gumbel softmax in the first step. Source: FBNet.
        final_temperature: In the last step (ours).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    temperature: float = 5.0
    final_temperature: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                raise InputError(
                    field.name,
                    value,
                    "is no temperature",
                    legal="above 0, finite",
                    fix=f"use {field.default}",
                )
        if self.final_temperature > self.temperature:
            raise InputError(
                "final_temperature",
                self.final_temperature,
                "is above the temperature at the start",
                legal=f"above 0, to {self.temperature}",
                fix="lower it, or raise temperature",
            )
