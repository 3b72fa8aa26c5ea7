"""A classifier of our classes on a teacher's features: linear, and honest about pictures it saw.

A network trained on ImageNet knows 1000 classes at its own picture size. On small pictures its own
classifier is overconfident where it errs, and where our classes are not ImageNet's it has none.
Fitted to our training pictures, a linear one is a better teacher; but about pictures that it was
fitted to it only repeats their labels. So every training picture is judged by a classifier that was
fitted without it (cross-fitting). Our choice; measured in ``results/distilling.csv``.

Tensor shapes: N pictures, V views of each, F features, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_FOLDS = 5
WEIGHT_PENALTY = 0.03
"""Of the squared weights on standardized features; measured in ``results/teachers.csv``."""
_MAX_ITERATIONS = 60


@dataclass(frozen=True)
class FittedHead:
    """A linear classifier on standardized features.

    Attributes:
        weight: (C, F), the standardization included.
        bias: (C,).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits (..., C) of features (..., F)."""
        return features @ self.weight.to(features.device).T + self.bias.to(features.device)

    @classmethod
    def fit(
        cls, features: Tensor, labels: Tensor, num_classes: int, penalty: float = WEIGHT_PENALTY
    ) -> FittedHead:
        """Fits by L-BFGS to all views of the pictures.

        Args:
            features: (N, V, F).
            labels: (N,).
            num_classes: C.
            penalty: Of the squared weights.
        """
        mean, std = features.mean(dim=(0, 1)), features.std(dim=(0, 1))
        std = std + 1e-3 * std.mean()  # a feature that hardly varies says nothing
        inputs = ((features - mean) / std).flatten(0, 1)
        targets = labels.repeat_interleave(features.shape[1])
        weight = inputs.new_zeros(num_classes, inputs.shape[1], requires_grad=True)
        bias = inputs.new_zeros(num_classes, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weight, bias], max_iter=_MAX_ITERATIONS, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(inputs @ weight.T + bias, targets)
            value = value + penalty * weight.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(loss)
        scaled = weight.detach() / std
        return cls(scaled, bias.detach() - scaled @ mean)


def cross_fitted_logits(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Logits (N, V, C) of every picture by a head that was fitted without it."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    found = features.new_zeros(*features.shape[:2], num_classes)
    folds = min(NUM_FOLDS, len(labels))
    for fold in range(folds):
        held_out = order[fold::folds]
        rest = torch.ones(len(labels), dtype=torch.bool)
        rest[held_out] = False
        head = FittedHead.fit(features[rest], labels[rest], num_classes)
        found[held_out] = head(features[held_out])
    return found
