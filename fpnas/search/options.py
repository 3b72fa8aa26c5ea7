"""The options of a search. Light to import: configurations are checked before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from fpnas.errors import InputError

Temperature = Literal["sum", "mean", "ess"]
DistributionKind = Literal["factorized", "joint"]
Phase = Literal["coarse", "fine"]

StrategyName = Literal["fpnas", "factorized", "joint", "parsec", "dnas", "random", "evolution"]
STRATEGIES: dict[str, str] = {
    "fpnas": "factorized, then joint; the number of samples follows the entropy",
    "factorized": "FP-NAS without its fine search: factorized to the end",
    "joint": "FP-NAS without its coarse search: joint from the start",
    "parsec": "joint from the start, with a fixed number of samples",
    "dnas": "FBNetV2's masking supernet with Gumbel-softmax gates",
    "random": "the best of random architectures within the budget, scored with shared weights",
    "evolution": "evolved architectures within the budget, scored with shared weights",
}

_LEAST = {
    "num_steps": 1,
    "warmup_steps": 0,
    "warmup_samples": 1,
    "sampling_rate": 0,
    "min_samples": 1,
    "num_samples": 1,
    "negligible_weight": 0,
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
        distribution: Over the architectures; None takes the phase's own: factorized in the coarse
            search, and joint in the fine one.
        num_samples: A fixed number of architectures a step, as in PARSEC; None follows the entropy.
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
        negligible_weight: An architecture whose importance weight is below runs no backward pass
            (ours); 0 is exact.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    num_steps: int
    warmup_steps: int = 0
    warmup_samples: int = 2
    distribution: DistributionKind | None = None
    num_samples: int | None = None
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
    negligible_weight: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            least, value = _LEAST.get(field.name), getattr(self, field.name)
            if least is not None and value is not None and not value >= least:
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


@dataclass(frozen=True)
class WeightOptions:
    """SGD on the shared weights.

    Attributes:
        momentum: Nesterov's.
        weight_decay: Of all weights.
        max_grad_norm: The gradient is scaled down to this norm.
    """

    momentum: float = 0.9
    weight_decay: float = 1e-4
    max_grad_norm: float = 5.0
