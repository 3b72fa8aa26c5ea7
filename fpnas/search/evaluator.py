"""What a search evaluates architectures with: the supernet, or a table of known values.

Tensor shapes: A sampled architectures, G block groups, M variables, B pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from fpnas.errors import DivergedError
from fpnas.estimator import importance_weights
from fpnas.networks.supernet import Supernet
from fpnas.search.options import Temperature

Batch = tuple[Tensor, Tensor]
"""Normalized pictures, float32 (B, 3, H, W), and labels, int64 (B,)."""


class Evaluator(Protocol):
    """The only thing that the search loop knows about images and networks."""

    def train_step(self, choices: Tensor, learning_rate: float) -> float:
        """One step on the weights for architectures (A, G, M); returns the mean loss."""

    def log_likelihood(self, choices: Tensor) -> tuple[Tensor, int]:
        """Log-likelihoods (A,) on the next architecture batch, and the number of its pictures."""

    def state(self) -> dict[str, Any]:
        """Everything that the next calls depend on."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state`."""


class BatchSource(Protocol):
    """Endless batches that can be resumed."""

    def __iter__(self) -> Iterator[Batch]:
        """Goes on from the current position."""

    def state_dict(self) -> dict[str, int]:
        """The position."""

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Moves to a position."""


class SupernetEvaluator:
    """Evaluates architectures as slices of a weight-sharing supernet.

    One architecture is in memory at a time, as when training a single network.

    Args:
        supernet: The shared weights.
        weight_batches: The half of the pictures that trains the weights.
        architecture_batches: The half that trains the distribution.
        temperature: Of the importance weights in the step on the weights.
        ess_fraction: For the temperature ``"ess"``.
        momentum: Of SGD.
        weight_decay: Of SGD.
        max_grad_norm: The gradient is scaled down to this norm.
    """

    def __init__(
        self,
        supernet: Supernet,
        weight_batches: BatchSource,
        architecture_batches: BatchSource,
        *,
        temperature: Temperature | float,
        ess_fraction: float,
        momentum: float,
        weight_decay: float,
        max_grad_norm: float,
    ) -> None:
        self.supernet = supernet
        self.temperature, self.ess_fraction = temperature, ess_fraction
        self.max_grad_norm = max_grad_norm
        self.optimizer = torch.optim.SGD(
            supernet.parameters(),
            lr=0.0,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=weight_decay,
        )
        self._sources = (weight_batches, architecture_batches)
        self._iterators = [iter(weight_batches), iter(architecture_batches)]

    def train_step(self, choices: Tensor, learning_rate: float) -> float:
        """One SGD step on sum_k omega_k grad[-log P(y | X, w, A_k)].

        The sum over pictures is divided by their number, so that the learning rate does not
        depend on the batch.
        """
        images, labels = next(self._iterators[0])
        distinct, counts = choices.unique(dim=0, return_counts=True)
        weights = torch.ones(1, dtype=torch.float64)
        if len(distinct) > 1:
            log_likelihoods = self._log_likelihoods(distinct, images, labels)
            # A repeated draw counts as often as it was drawn.
            log_likelihoods = log_likelihoods.repeat_interleave(counts)
            drawn = importance_weights(
                log_likelihoods,
                batch_size=len(labels),
                temperature=self.temperature,
                ess_fraction=self.ess_fraction,
            ).weights
            owner = torch.arange(len(distinct)).repeat_interleave(counts)
            weights = torch.zeros(len(distinct), dtype=torch.float64).index_add(0, owner, drawn)
        self.optimizer.zero_grad(set_to_none=True)
        mean_loss = 0.0
        for choice, weight in zip(distinct, weights.tolist(), strict=True):
            logits = self.supernet(images, self.supernet.architecture(choice))
            loss = F.cross_entropy(logits, labels)
            (weight * loss).backward()
            mean_loss += weight * loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.supernet.parameters(), self.max_grad_norm)
        if not torch.isfinite(norm):
            raise DivergedError(f"the supernet's gradient is {norm.item()} (loss {mean_loss})")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        return mean_loss

    def log_likelihood(self, choices: Tensor) -> tuple[Tensor, int]:
        """Forward passes only, on the next batch of the architecture half."""
        images, labels = next(self._iterators[1])
        distinct, inverse = choices.unique(dim=0, return_inverse=True)
        values = self._log_likelihoods(distinct, images, labels)
        return values[inverse], len(labels)

    @torch.no_grad()
    def _log_likelihoods(self, choices: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        values = [
            -F.cross_entropy(
                self.supernet(images, self.supernet.architecture(choice)), labels, reduction="sum"
            )
            for choice in choices
        ]
        result = torch.stack(values).double().cpu()
        if not torch.isfinite(result).all():
            raise DivergedError(f"the supernet's log-likelihoods are {result.tolist()}")
        return result

    def state(self) -> dict[str, Any]:
        """Shared weights, optimiser and the positions of both halves."""
        return {
            "supernet": dict(self.supernet.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "positions": [source.state_dict() for source in self._sources],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state`."""
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        for source, position in zip(self._sources, state["positions"], strict=True):
            source.load_state_dict(position)
        self._iterators = [iter(source) for source in self._sources]


class TableEvaluator:
    """Evaluates architectures by a known function, so that a search meets a known optimum.

    Args:
        log_likelihood: Maps architectures (A, G, M) to log-likelihoods (A,).
        batch_size: The number of pictures that the values stand for.
    """

    def __init__(self, log_likelihood: Callable[[Tensor], Tensor], batch_size: int = 1) -> None:
        self._function, self._batch_size = log_likelihood, batch_size

    def train_step(self, choices: Tensor, learning_rate: float) -> float:
        """Nothing to train; returns the mean loss."""
        return -float(self._function(choices).mean()) / self._batch_size

    def log_likelihood(self, choices: Tensor) -> tuple[Tensor, int]:
        """The table's values."""
        return self._function(choices).double(), self._batch_size

    def state(self) -> dict[str, Any]:
        """A table has no state."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """A table has no state."""
