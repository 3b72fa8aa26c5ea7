"""What a search evaluates architectures with: the supernet, or a table of known values.

Tensor shapes: A sampled architectures, G block groups, M variables, B pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fpnas.cost import CostModel
from fpnas.errors import DivergedError
from fpnas.estimator import importance_weights
from fpnas.networks.supernet import Supernet
from fpnas.parallel import Ranks
from fpnas.search.engine import Engine, PrefixTree
from fpnas.search.options import Temperature
from fpnas.search.weights import AbstractWeights, BatchSource, Bill


@dataclass(frozen=True)
class WeightStep:
    """What a step on the weights tells.

    Attributes:
        loss: Mean cross-entropy under the importance weights, nats.
        log_likelihoods: On the weight batch, before the step, (A,).
    """

    loss: float
    log_likelihoods: Tensor


class Evaluator(Protocol):
    """The only thing that the search loop knows about images and networks."""

    bill: Bill

    def train_step(self, choices: Tensor, learning_rate: float) -> WeightStep:
        """One step on the weights for architectures (A, G, M)."""

    def log_likelihood(self, choices: Tensor) -> tuple[Tensor, int]:
        """Log-likelihoods (A,) on the next architecture batch, and the number of its pictures.

        Single ones may be infinite or NaN.
        """

    def state(self) -> dict[str, Any]:
        """Everything that the next calls depend on."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state`."""


class SupernetEvaluator(AbstractWeights[Supernet]):
    """Evaluates architectures as slices of a weight-sharing supernet.

    Memory is that of training the largest architecture by itself.

    Args:
        supernet: The shared weights.
        weight_batches: The half of the pictures that trains the weights.
        architecture_batches: The half that trains the distribution.
        temperature: Of the importance weights in the step on the weights.
        ess_fraction: For the temperature ``"ess"``.
        momentum: Of SGD.
        weight_decay: Of SGD.
        max_grad_norm: The gradient is scaled down to this norm.
        engine: How the architectures of a draw are run.
        precision: Of the layers.
        ranks: The processes that share them.
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
        engine: Engine | None = None,
        precision: Literal["fp32", "bf16"] = "fp32",
        ranks: Ranks | None = None,
    ) -> None:
        super().__init__(
            supernet,
            weight_batches,
            architecture_batches,
            momentum=momentum,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
        )
        self.temperature, self.ess_fraction = temperature, ess_fraction
        self.engine, self.ranks, self.precision = engine or Engine(), ranks or Ranks(), precision
        self._costs = CostModel(supernet.space, supernet.classifier.out_features)

    def train_step(self, choices: Tensor, learning_rate: float) -> WeightStep:
        """One SGD step on sum_k omega_k grad[-log P(y | X, w, A_k)].

        The sum over pictures is divided by their number, so that the learning rate does not
        depend on the batch.
        """
        self.ranks.check_equal(choices, "architectures")
        found = self.accumulate(choices, *next(self._iterators[0]))
        self.descend(learning_rate, found.loss)
        return found

    def accumulate(self, choices: Tensor, images: Tensor, labels: Tensor) -> WeightStep:
        """Puts the gradient of a step on the weights into the shared weights."""
        draw = _Draw.of(choices, self.supernet, self._costs, self.engine, self.ranks)
        self.optimizer.zero_grad(set_to_none=True)
        # A single architecture has all the weight: its loss need not be known before.
        keep = self.engine.keep_activations or draw.num_distinct == 1
        with self._autocast(images):
            forward = draw.tree.forward(images, labels, keep=keep)
        values = self._gathered(draw, forward.losses, labels)
        drawn = importance_weights(
            values[draw.owner],  # a repeated draw counts as often as it was drawn
            batch_size=len(labels),
            temperature=self.temperature,
            ess_fraction=self.ess_fraction,
        ).weights
        weights = torch.zeros(draw.num_distinct, dtype=torch.float64)
        weights.index_add_(0, draw.owner, drawn)
        kept = weights.where(weights >= self.engine.negligible_weight, 0.0)
        again = forward.backward(kept[draw.mine].tolist())
        if any(again):
            with self._autocast(images):
                draw.tree.backward(images, labels, again)
        self.ranks.sum_gradients(self.supernet.parameters())
        run_again = torch.tensor(float(sum(map(bool, again))), device=images.device)
        self.bill.num_forwards += int(self.ranks.sum(run_again))
        self.bill.num_backwards += int(kept.count_nonzero())
        # What has no weight has no say; it may be infinite.
        loss = -float((weights * values.where(weights > 0, 0.0)).sum()) / len(labels)
        return WeightStep(loss, values[draw.owner])

    def log_likelihood(self, choices: Tensor) -> tuple[Tensor, int]:
        """Forward passes only, on the next batch of the architecture half."""
        images, labels = next(self._iterators[1])
        return self.score(choices, images, labels), len(labels)

    def score(self, choices: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Log-likelihoods (A,) on a batch, summed over its pictures."""
        draw = _Draw.of(choices, self.supernet, self._costs, self.engine, self.ranks)
        with self._autocast(images):
            losses = draw.tree.losses(images, labels)
        return self._gathered(draw, losses, labels)[draw.owner]

    def _gathered(self, draw: _Draw, losses: Tensor, labels: Tensor) -> Tensor:
        """The log-likelihoods of all distinct architectures from the losses of this rank's."""
        all_losses = torch.zeros(draw.num_distinct, dtype=torch.float64, device=losses.device)
        all_losses[draw.mine] = losses.double()
        self.bill.num_forwards += draw.num_distinct
        values = -len(labels) * self.ranks.sum(all_losses).cpu()
        if not torch.isfinite(values).any():
            raise DivergedError(f"the supernet's log-likelihoods are {values.tolist()}")
        return values

    def _autocast(self, images: Tensor) -> torch.autocast:
        enabled = self.precision == "bf16"
        return torch.autocast(images.device.type, torch.bfloat16, enabled=enabled)


@dataclass(frozen=True)
class _Draw:
    """The architectures of a draw, and the share of this rank.

    Attributes:
        owner: The distinct architecture of each draw, int64 (A,).
        num_distinct: Of all ranks.
        mine: The distinct architectures of this rank.
        tree: The same, to be run.
    """

    owner: Tensor
    num_distinct: int
    mine: list[int]
    tree: PrefixTree

    @classmethod
    def of(
        cls, choices: Tensor, supernet: Supernet, costs: CostModel, engine: Engine, ranks: Ranks
    ) -> _Draw:
        paths = [tuple(supernet.architecture(choice).blocks()) for choice in choices]
        firsts: dict[Hashable, int] = {}
        keys: list[Hashable] = list(paths if engine.merge_equal else range(len(paths)))
        owner = [firsts.setdefault(key, len(firsts)) for key in keys]
        distinct = [owner.index(number) for number in range(len(firsts))]
        mine = ranks.share(costs.macs(choices[distinct]).tolist())
        tree = PrefixTree(
            supernet,
            [paths[distinct[number]] for number in mine],
            share_prefixes=engine.share_prefixes,
        )
        return cls(torch.tensor(owner), len(distinct), mine, tree)


class TableEvaluator:
    """Evaluates architectures by a known function, so that a search meets a known optimum.

    Args:
        log_likelihood: Maps architectures (A, G, M) to log-likelihoods (A,).
        batch_size: The number of pictures that the values stand for.
    """

    def __init__(self, log_likelihood: Callable[[Tensor], Tensor], batch_size: int = 1) -> None:
        self._function, self._batch_size = log_likelihood, batch_size
        self.bill = Bill()

    def train_step(self, choices: Tensor, learning_rate: float) -> WeightStep:
        """Nothing to train."""
        values = self._function(choices).double()
        return WeightStep(-float(values.mean()) / self._batch_size, values)

    def log_likelihood(self, choices: Tensor) -> tuple[Tensor, int]:
        """The table's values."""
        return self._function(choices).double(), self._batch_size

    def state(self) -> dict[str, Any]:
        """A table has no state."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """A table has no state."""
