"""Training recipes as data. Light to import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from fpnas.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How a network is trained from scratch. All of it is our choice; the paper gives none.

    Attributes:
        epochs: Passes over the training pictures.
        batch_size: Pictures a step.
        optimizer: ``sgd`` (Nesterov momentum) or ``adamw``.
        learning_rate: At the peak.
        warmup_epochs: Linear rise to the peak; a cosine to zero follows.
        momentum: Of SGD.
        weight_decay: Of weights with two or more dimensions; norms and biases have none.
        label_smoothing: Probability spread over the other classes.
        dropout: Before the classifier.
        ema_decay: Of the exponential moving average of the weights, which is what is evaluated
            and kept; 0 keeps the weights themselves.
        max_grad_norm: The gradient is scaled down to this norm.
        augmentation: Of the pictures; None takes the default for the source and the size.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    epochs: int
    batch_size: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.1
    warmup_epochs: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    dropout: float = 0.0
    ema_decay: float = 0.99
    max_grad_norm: float = 5.0
    augmentation: str | None = None

    def __post_init__(self) -> None:
        ranges = {
            "epochs": (1, math.inf),
            "batch_size": (2, math.inf),
            "learning_rate": (0, math.inf),
            "warmup_epochs": (0, self.epochs),
            "momentum": (0, 1),
            "weight_decay": (0, math.inf),
            "label_smoothing": (0, 1),
            "dropout": (0, 1),
            "ema_decay": (0, 1),
            "max_grad_norm": (0, math.inf),
        }
        for field, (low, high) in ranges.items():
            value = getattr(self, field)
            if not low <= value <= high:
                raise InputError(
                    f"recipe.{field}",
                    value,
                    "is out of range",
                    legal=f"{low} to {high}",
                    fix="correct the recipe",
                )

    def learning_rate_at(self, epoch: float) -> float:
        """The learning rate after ``epoch`` passes, which may be a fraction."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * epoch / self.warmup_epochs
        span = max(self.epochs - self.warmup_epochs, 1e-9)
        progress = min((epoch - self.warmup_epochs) / span, 1.0)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
