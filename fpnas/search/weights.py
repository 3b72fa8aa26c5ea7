"""The shared weights of a search: how they are trained, where they read, what they have cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from fpnas.errors import DivergedError

Batch = tuple[Tensor, Tensor]
"""Normalized pictures, float32 (B, 3, H, W), and labels, int64 (B,)."""

NetworkT = TypeVar("NetworkT", bound=nn.Module)


class BatchSource(Protocol):
    """Endless batches that can be resumed."""

    def __iter__(self) -> Iterator[Batch]:
        """Goes on from the current position."""

    def state_dict(self) -> dict[str, Any]:
        """The position."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a position."""


@dataclass
class Bill:
    """What evaluating has cost, over all ranks.

    Attributes:
        num_forwards: Forward passes of an architecture on a batch.
        num_backwards: Backward passes.
    """

    num_forwards: int = 0
    num_backwards: int = 0


class AbstractWeights(Generic[NetworkT]):
    """Weights under SGD, and the two halves of the pictures.

    Args:
        supernet: The weights.
        weight_batches: The half of the pictures that trains the weights.
        architecture_batches: The half that trains the distribution.
        momentum: Nesterov's.
        weight_decay: Of all weights.
        max_grad_norm: The gradient is scaled down to this norm.

    Attributes:
        supernet: The weights.
        optimizer: Theirs.
        bill: What evaluating has cost.
    """

    def __init__(
        self,
        supernet: NetworkT,
        weight_batches: BatchSource,
        architecture_batches: BatchSource,
        *,
        momentum: float,
        weight_decay: float,
        max_grad_norm: float,
    ) -> None:
        self.supernet, self.max_grad_norm = supernet, max_grad_norm
        self.optimizer = torch.optim.SGD(
            supernet.parameters(),
            lr=0.0,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=weight_decay,
        )
        self.bill = Bill()
        self._sources = (weight_batches, architecture_batches)
        self._iterators = [iter(weight_batches), iter(architecture_batches)]

    def descend(self, learning_rate: float, loss: float) -> None:
        """One step along the gradient that the weights hold.

        Args:
            learning_rate: Of SGD.
            loss: For the message.

        Raises:
            DivergedError: The gradient is NaN or infinite. The weights are left as they were.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), self.max_grad_norm)
        if not torch.isfinite(norm):
            raise DivergedError(f"the supernet's gradient is {norm.item()} (loss {loss})")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        """Weights, optimiser, the positions of both halves, and the bill."""
        return {
            "supernet": dict(self.supernet.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "positions": [source.state_dict() for source in self._sources],
            "bill": asdict(self.bill),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state`."""
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        for source, position in zip(self._sources, state["positions"], strict=True):
            source.load_state_dict(position)
        self._iterators = [iter(source) for source in self._sources]
        self.bill = Bill(**state["bill"])
