"""The options of the population strategies. Light to import, as the options of a search are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from fpnas.errors import InputError


@dataclass(frozen=True)
class PopulationOptions:
    """How ``random`` and ``evolution`` look for the best architecture.

    The defaults of ``population``, ``num_parents`` and ``mutation_probability`` are those of Guo et
    al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (ECCV 2020); the
    others are ours.

    Attributes:
        num_candidates: Architectures scored in a step. Of 500 on separable objectives, 10 a step
            found better ones than 50.
        population: Architectures drawn and scored in the first step of ``evolution``.
        num_parents: The best of all so far, from which ``evolution`` makes the next ones.
        mutation_probability: With which a mutation redraws a variable.
        recalibration_batches: Of the weight half, for the statistics of batch normalization.
        scoring_batches: Of the architecture half, on which architectures are scored.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    num_candidates: int = 10
    population: int = 50
    num_parents: int = 10
    mutation_probability: float = 0.1
    recalibration_batches: int = 8
    scoring_batches: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "mutation_probability" and not value >= 1:
                raise InputError(
                    field.name, value, "is too small", legal="1 or more", fix="raise it"
                )
        if self.num_parents > self.population:
            raise InputError(
                "num_parents",
                self.num_parents,
                "is more than the first step scores",
                legal=f"1 to {self.population}",
                fix="lower it or raise population",
            )
        if not 0.0 < self.mutation_probability <= 1.0:
            raise InputError(
                "mutation_probability",
                self.mutation_probability,
                "is no probability that changes anything",
                legal="above 0, to 1",
                fix="use 0.1",
            )
