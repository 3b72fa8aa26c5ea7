"""Evaluates many architectures of a supernet on one batch, each shared layer once.

The sampled architectures are walked as a prefix tree, depth first: a layer that several begin with
runs forward once, and backward once. At a branching the gradient graph is cut and continued by
hand, so that memory holds the graph of one path, as when a single network is trained.

Tensor shapes: D distinct architectures, B pictures.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fpnas.architecture import BlockSpec
from fpnas.networks.supernet import Supernet

Path = tuple[BlockSpec, ...]
"""The blocks of an architecture; equal paths compute the same, whatever they were drawn as."""


@dataclass(frozen=True)
class Engine:
    """What the engine may do; everything but ``negligible_weight`` leaves the result as it is.

    Attributes:
        merge_equal: Evaluate architectures that compute the same once.
        share_prefixes: Run the layers that several architectures begin with once.
        negligible_weight: Run no backward pass for an architecture with a smaller weight; 0 is
            exact.
    """

    merge_equal: bool = True
    share_prefixes: bool = True
    negligible_weight: float = 0.0


@dataclass(frozen=True)
class _Member:
    number: int
    path: Path
    weight: float


class PrefixTree:
    """The distinct architectures of a draw.

    Args:
        supernet: Their shared weights.
        paths: Of the architectures.
        share_prefixes: See :class:`Engine`.
    """

    def __init__(
        self, supernet: Supernet, paths: Sequence[Path], *, share_prefixes: bool = True
    ) -> None:
        self._supernet, self._paths, self._share = supernet, paths, share_prefixes

    @torch.no_grad()
    def losses(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of every architecture, forward passes only: (D,), nats."""
        return self._run(images, labels, [1.0] * len(self._paths))

    def backward(self, images: Tensor, labels: Tensor, weights: Sequence[float]) -> Tensor:
        """Adds the gradient of sum_d weight_d * loss_d to the shared weights' gradients.

        An architecture without weight is not run.

        Returns:
            Mean cross-entropy of every architecture, NaN for those not run: (D,), nats.
        """
        return self._run(images, labels, weights)

    def _run(self, images: Tensor, labels: Tensor, weights: Sequence[float]) -> Tensor:
        losses = torch.full(
            (len(self._paths),), torch.nan, dtype=images.dtype, device=images.device
        )
        members = [
            _Member(number, path, weight)
            for number, (path, weight) in enumerate(zip(self._paths, weights, strict=True))
            if weight
        ]
        for group in [members] if self._share else [[member] for member in members]:
            if group:
                self._walk(0, self._supernet.stem_features(images), labels, group, losses)
        return losses

    def _walk(
        self, depth: int, features: Tensor, labels: Tensor, members: list[_Member], losses: Tensor
    ) -> None:
        branches = _branches(members, depth)
        while len(branches) == 1 and depth < len(members[0].path):
            features = self._supernet.blocks[depth](features, members[0].path[depth])
            depth += 1
            branches = _branches(members, depth)
        if depth == len(members[0].path):
            self._leaf(features, labels, members, losses)
            return
        cut = features.detach().requires_grad_(features.requires_grad)
        for branch in branches:
            block = self._supernet.blocks[depth]
            self._walk(depth + 1, block(cut, branch[0].path[depth]), labels, branch, losses)
        if features.requires_grad:
            features.backward(cut.grad)

    def _leaf(
        self, features: Tensor, labels: Tensor, members: list[_Member], losses: Tensor
    ) -> None:
        loss = F.cross_entropy(self._supernet.logits(features), labels)
        weight = sum(member.weight for member in members)
        if loss.requires_grad:
            (weight * loss).backward()
        for member in members:
            losses[member.number] = loss.detach()


def _branches(members: list[_Member], depth: int) -> list[list[_Member]]:
    """Groups by the block at a depth; at the end of the paths there is one group."""
    groups: dict[Hashable, list[_Member]] = {}
    for member in members:
        groups.setdefault(member.path[depth] if depth < len(member.path) else None, []).append(
            member
        )
    return list(groups.values())
