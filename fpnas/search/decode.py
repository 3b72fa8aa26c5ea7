"""From a distribution to the most probable architecture within a budget.

Tensor shapes: G block groups, M variables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fpnas.cost import CostModel
from fpnas.distribution import AbstractDistribution
from fpnas.errors import InputError
from fpnas.space import CHANNELS


@dataclass(frozen=True)
class Decoded:
    """The most probable architecture within the budget.

    Attributes:
        choices: Indices, int64 (G, M).
        macs: Its cost.
        log_prob: Its log-probability in nats.
        is_mode: Whether it is also the most probable of all architectures.
    """

    choices: Tensor
    macs: int
    log_prob: float
    is_mode: bool


@dataclass(frozen=True)
class _Frontier:
    """Partial architectures that end in one width, none both dearer and less probable."""

    macs: NDArray[np.int64]
    log_prob: NDArray[np.float64]
    parent: NDArray[np.int64]  # width and position in the previous group's frontiers
    choice: NDArray[np.int64]  # joint number in this group


def most_probable_within(
    distribution: AbstractDistribution, cost_model: CostModel, budget_macs: int
) -> Decoded:
    """Finds the most probable architecture of at most ``budget_macs``, exactly.

    Dynamic programming over block groups: for every width that a group may end in, the Pareto
    frontier of cost and log-probability.

    Raises:
        InputError: No architecture of the space is within the budget.
    """
    mode = distribution.most_probable()
    mode_macs = int(cost_model.macs(mode[None])[0])
    if mode_macs <= budget_macs:
        log_prob = distribution.log_prob(mode[None]).item()
        return Decoded(mode, mode_macs, log_prob, is_mode=True)
    low, high = cost_model.range_macs()
    if low > budget_macs:
        raise InputError(
            "target_macs",
            budget_macs,
            "is below every architecture of the space",
            legal=f"{low} to {high}",
            fix="raise the target or lower the input size",
        )
    tables, end_macs = cost_model.group_macs()
    joint = distribution.joint_log_probs().detach().double().cpu().numpy()
    layers = _frontiers(tables, joint, distribution, budget_macs - int(end_macs.min()))
    best = (-np.inf, -1, -1)
    for width, frontier in enumerate(layers[-1]):
        fits = frontier.macs + end_macs[width] <= budget_macs
        if fits.any():
            position = int(np.where(fits, frontier.log_prob, -np.inf).argmax())
            best = max(best, (float(frontier.log_prob[position]), width, position))
    joint_choices = _trace(layers, best[1], best[2])
    choices = distribution.layout.unravel(torch.tensor(joint_choices)[None])[0]
    return Decoded(choices, int(cost_model.macs(choices[None])[0]), best[0], is_mode=False)


def _frontiers(
    tables: list[NDArray[np.int64]],
    joint: NDArray[np.float64],
    distribution: AbstractDistribution,
    budget_macs: int,
) -> list[list[_Frontier]]:
    start = _Frontier(
        np.zeros(1, np.int64), np.zeros(1), np.zeros((1, 2), np.int64), np.zeros(1, np.int64)
    )
    layers = [[start]]
    for group, table in enumerate(tables):
        sizes = tuple(distribution.layout.sizes[group].tolist())
        log_probs = joint[group, : np.prod(sizes)]
        widths = np.indices(sizes)[CHANNELS].ravel()
        layer = []
        for width in range(sizes[CHANNELS]):
            numbers = np.flatnonzero(widths == width)
            parts = [
                _extend(
                    previous,
                    origin,
                    table[origin].ravel()[numbers],
                    log_probs[numbers],
                    numbers,
                    budget_macs,
                )
                for origin, previous in enumerate(layers[-1])
            ]
            layer.append(_pareto(parts))
        layers.append(layer)
    return layers


def _extend(
    previous: _Frontier,
    origin: int,
    macs: NDArray[np.int64],
    log_probs: NDArray[np.float64],
    numbers: NDArray[np.int64],
    budget_macs: int,
) -> _Frontier:
    """Every partial architecture of ``previous`` with every useful choice behind it."""
    own = _pareto([_Frontier(macs, log_probs, np.zeros((len(macs), 2), np.int64), numbers)])
    total = (previous.macs[:, None] + own.macs).ravel()
    log_prob = (previous.log_prob[:, None] + own.log_prob).ravel()
    position, choice = np.indices((len(previous.macs), len(own.macs))).reshape(2, -1)
    parent = np.stack([np.full_like(position, origin), position], axis=1)
    keep = total <= budget_macs
    return _Frontier(total[keep], log_prob[keep], parent[keep], own.choice[choice[keep]])


def _pareto(parts: list[_Frontier]) -> _Frontier:
    macs = np.concatenate([part.macs for part in parts])
    log_prob = np.concatenate([part.log_prob for part in parts])
    order = np.lexsort((-log_prob, macs))
    if len(order):
        ahead = np.maximum.accumulate(log_prob[order])
        order = order[np.r_[True, log_prob[order][1:] > ahead[:-1]]]
    parent = np.concatenate([part.parent for part in parts])
    choice = np.concatenate([part.choice for part in parts])
    return _Frontier(macs[order], log_prob[order], parent[order], choice[order])


def _trace(layers: list[list[_Frontier]], width: int, position: int) -> list[int]:
    choices = []
    for layer in reversed(layers[1:]):
        frontier = layer[width]
        choices.append(int(frontier.choice[position]))
        width, position = (int(value) for value in frontier.parent[position])
    return choices[::-1]
