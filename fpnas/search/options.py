"""The options of a search. Light to import: configurations are checked before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from fpnas.errors import InputError

Temperature = Literal["sum", "mean", "ess"]
_LEAST = {
    "num_steps": 1,
    "warmup_steps": 0,
    "warmup_samples": 1,
    "sampling_rate": 0,
    "min_samples": 1,
    "cost_weight": 0,
    "learning_rate": 0,
    "architecture_learning_rate": 0,
    "converged_entropy_nats": 0,
    "snapshot_steps": 1,
}


@dataclass(frozen=True)
class SearchOptions:
    """How to search. What the paper leaves open is marked (ours).

    Attributes:
        num_steps: Steps of this search.
        warmup_steps: First steps, in which only the weights are trained (ours).
        warmup_samples: Architectures drawn in each of them (ours).
        sampling_rate: The paper's lambda: architectures per nat of entropy.
        min_samples: Least number of architectures in a step.
        temperature: Of the likelihood (ours); see :func:`fpnas.estimator.importance_weights`.
        ess_fraction: Of the temperature ``"ess"`` (ours).
        baseline: Subtract the mean from the coefficients (ours).
        cost_weight: The paper's beta; its value is ours.
        learning_rate: Of the shared weights at the start; falls to zero as a cosine (ours).
        architecture_learning_rate: Of Adam on the logits (ours).
        converged_entropy_nats: Stop when the entropy of every group is below; 0 never stops.
        snapshot_steps: Steps between two records of all probabilities.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    num_steps: int
    warmup_steps: int = 0
    warmup_samples: int = 2
    sampling_rate: float = 0.25
    min_samples: int = 2
    temperature: Temperature | float = "ess"
    ess_fraction: float = 0.5
    baseline: bool = True
    cost_weight: float = 0.5
    learning_rate: float = 0.05
    architecture_learning_rate: float = 0.03
    converged_entropy_nats: float = 0.0
    snapshot_steps: int = 10

    def __post_init__(self) -> None:
        for field in fields(self):
            least, value = _LEAST.get(field.name), getattr(self, field.name)
            if least is not None and not value >= least:
                raise InputError(
                    field.name, value, "is too small", legal=f"{least} or more", fix="raise it"
                )
        if not 0.0 < self.ess_fraction <= 1.0:
            raise InputError(
                "ess_fraction",
                self.ess_fraction,
                "is no part",
                legal="above 0, to 1",
                fix="use 0.5",
            )
        if isinstance(self.temperature, int | float) and not self.temperature > 0:
            raise InputError(
                "temperature", self.temperature, "is not positive", legal="above 0", fix='use "ess"'
            )
