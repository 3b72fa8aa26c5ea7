"""The recipe's optimiser, moving average and random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fpnas.training.recipe import Recipe


def build_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Returns the recipe's optimiser; norms and biases are not decayed."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    rate, momentum = recipe.learning_rate, recipe.momentum
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate)
    if recipe.optimizer == "rmsprop":
        # As torchvision trains MobileNetV3: TensorFlow's epsilon of 0.001 is under the root.
        return torch.optim.RMSprop(groups, lr=rate, momentum=momentum, alpha=0.9, eps=0.0316)
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0)


def build_average(network: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential moving average of weights and statistics; None when ``decay`` is 0.

    It starts fast: short runs must not keep their initial weights.
    """
    if not decay:
        return None
    return AveragedModel(network, multi_avg_fn=_average(decay), use_buffers=True)


def _average(decay: float) -> Callable[[Any, Any, Any], None]:
    def update(averaged: Any, current: Any, num_averaged: Any) -> None:
        count = int(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(averaged, current, count)

    return update


def seed_draws(*key: int) -> None:
    """Seeds PyTorch's own generators, which dropout and torchvision's transforms draw from.

    Called in every step with what names the step, so that no generator's state is part of a
    checkpoint: a run may go on on another device or with other processes.
    """
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
