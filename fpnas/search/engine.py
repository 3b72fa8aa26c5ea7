"""Evaluates many architectures of a supernet on one batch, each shared layer once.

The sampled architectures are walked as a prefix tree, depth first: a layer that several begin with
runs forward once, and backward once. At a branching the gradient graph is cut and continued by
hand, so that memory holds the graph of one path, as when a single network is trained.

A step on the weights needs all likelihoods before it knows any weight, and runs every architecture
forward twice for it. Sampled architectures are smaller than the largest one, so the graphs of
several fit into what training that one would take: these run forward once.

Tensor shapes: D distinct architectures, B pictures.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fpnas.architecture import BlockSpec, largest_architecture
from fpnas.networks.supernet import Supernet
from fpnas.space import SearchSpace

Path = tuple[BlockSpec, ...]
"""The blocks of an architecture; equal paths compute the same, whatever they were drawn as."""


@dataclass(frozen=True)
class Engine:
    """What the engine may do; everything but ``negligible_weight`` leaves the result as it is.

    Attributes:
        merge_equal: Evaluate architectures that compute the same once.
        share_prefixes: Run the layers that several architectures begin with once.
        keep_activations: Keep the graphs of the likelihood pass for the gradient pass, of as many
            architectures as fit into the memory that the largest one takes.
        negligible_weight: Run no backward pass for an architecture with a smaller weight; 0 is
            exact.
    """

    merge_equal: bool = True
    share_prefixes: bool = True
    keep_activations: bool = True
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

    def forward(self, images: Tensor, labels: Tensor, *, keep: bool) -> ForwardPass:
        """Runs every architecture forward, for a backward pass to follow.

        Args:
            images: (B, 3, H, W).
            labels: (B,).
            keep: Keep the graphs that fit; see :class:`Engine`.
        """
        kept: set[int] = set()
        if keep:
            kept = _fitting(self._supernet.space, self._paths, images.shape[-1], self._share)
        graphs: dict[int, Tensor] = {}
        weights = [float(number in kept) for number in range(len(self._paths))]
        losses = self._run(images, labels, weights, graphs)
        if len(kept) < len(weights):
            with torch.no_grad():
                rest = self._run(images, labels, [1.0 - weight for weight in weights])
            losses = losses.where(torch.tensor(weights, device=losses.device) > 0, rest)
        return ForwardPass(losses, graphs)

    def _run(
        self,
        images: Tensor,
        labels: Tensor,
        weights: Sequence[float],
        graphs: dict[int, Tensor] | None = None,
    ) -> Tensor:
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
                features = self._supernet.stem_features(images)
                self._walk(0, features, labels, group, losses, graphs)
        return losses

    def _walk(
        self,
        depth: int,
        features: Tensor,
        labels: Tensor,
        members: list[_Member],
        losses: Tensor,
        graphs: dict[int, Tensor] | None,
    ) -> None:
        branches = _branches(members, depth)
        while len(branches) == 1 and depth < len(members[0].path):
            features = self._supernet.blocks[depth](features, members[0].path[depth])
            depth += 1
            branches = _branches(members, depth)
        if depth == len(members[0].path):
            self._leaf(features, labels, members, losses, graphs)
            return
        cut = features
        if graphs is None:
            cut = features.detach().requires_grad_(features.requires_grad)
        for branch in branches:
            after = self._supernet.blocks[depth](cut, branch[0].path[depth])
            self._walk(depth + 1, after, labels, branch, losses, graphs)
        if graphs is None and features.requires_grad:
            features.backward(cut.grad)

    def _leaf(
        self,
        features: Tensor,
        labels: Tensor,
        members: list[_Member],
        losses: Tensor,
        graphs: dict[int, Tensor] | None,
    ) -> None:
        loss = F.cross_entropy(self._supernet.logits(features), labels)
        if graphs is not None:
            graphs.update((member.number, loss) for member in members)
        elif loss.requires_grad:
            (sum(member.weight for member in members) * loss).backward()
        for member in members:
            losses[member.number] = loss.detach()


@dataclass(frozen=True)
class ForwardPass:
    """The losses of a tree's architectures, and the graphs that were kept.

    Attributes:
        losses: Mean cross-entropy of every architecture, (D,), nats, without a graph.
        graphs: The loss of every kept architecture, with its graph.
    """

    losses: Tensor
    graphs: dict[int, Tensor]

    def backward(self, weights: Sequence[float]) -> list[float]:
        """Adds the gradient of sum_d weight_d * loss_d, over the kept architectures.

        Frees the graphs.

        Returns:
            The weights that are left for :meth:`PrefixTree.backward`, 0 for those done.
        """
        kept = [weights[number] * loss for number, loss in self.graphs.items() if weights[number]]
        if kept:
            torch.stack(kept).sum().backward()
        left = [0.0 if n in self.graphs else weight for n, weight in enumerate(weights)]
        self.graphs.clear()
        return left


def _fitting(space: SearchSpace, paths: Sequence[Path], side: int, share: bool) -> set[int]:
    """The first architectures whose graphs together are no larger than the largest one's."""
    capacity = sum(_saved_elements(space, largest_architecture(space).blocks(), side))
    seen: set[Path] = set()
    kept: set[int] = set()
    for number, path in enumerate(paths):
        prefixes = [path[:depth] for depth in range(len(path) + 1)]
        elements = _saved_elements(space, path, side)
        needed = elements.pop()  # the head's, which no two share
        for prefix, more in zip(prefixes, elements, strict=True):
            needed += 0 if share and prefix in seen else more
        if needed > capacity:
            break
        capacity -= needed
        kept.add(number)
        seen.update(prefixes)
    return kept


def _saved_elements(space: SearchSpace, path: Sequence[BlockSpec], side: int) -> list[int]:
    """What a gradient graph holds a picture: of the stem, of every block, and of the head.

    A convolution keeps its input, batch normalization its input, and swish its input.
    """
    side = -(-side // space.stem_stride)
    found = [3 * space.stem_channels * side**2]
    for spec in path:
        before, side = side, -(-side // spec.stride)
        if spec.is_identity:
            found.append(0)
        elif spec.kernel == 0:
            found.append(2 * spec.out_channels * side**2)
        else:
            inner = spec.mid_channels * max(spec.splits, 1) * side**2
            inner += spec.mid_channels * before**2 if spec.expand else 0
            tensors = 3 if spec.activation == "swish" else 2
            found.append(tensors * inner + 2 * spec.out_channels * side**2)
    found.append(3 * space.head_channels * side**2)
    return found


def _branches(members: list[_Member], depth: int) -> list[list[_Member]]:
    """Groups by the block at a depth; at the end of the paths there is one group."""
    groups: dict[Hashable, list[_Member]] = {}
    for member in members:
        groups.setdefault(member.path[depth] if depth < len(member.path) else None, []).append(
            member
        )
    return list(groups.values())
