"""Differentiable search (DNAS) after FBNetV2: the baseline that FP-NAS is compared with.

All choices are in one network, mixed by gates that a Gumbel softmax draws. The weights learn on one
part of the pictures; the logits of the gates follow the gradient, through the gates, of the loss on
the other part and of the expected cost. FBNetV2 trains the weights on 80 % of the samples, and then
the logits on the other 20 %, once an epoch; here the two alternate at every step and the parts are
the halves of FP-NAS (ours), so that both searches see the same pictures.

Tensor shapes: G block groups, M = 5 variables, C choices (padded), B pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fpnas.cost import CostModel
from fpnas.distribution import FactorizedDistribution
from fpnas.errors import DivergedError
from fpnas.networks.masked_supernet import MaskedSupernet
from fpnas.search.dnas_options import DnasOptions
from fpnas.search.loop import AbstractSearch
from fpnas.search.options import SearchOptions
from fpnas.search.probabilistic import learning_rate_at
from fpnas.search.weights import AbstractWeights
from fpnas.space import CHANNELS


class ExpectedMacs:
    """The expectation of a space's cost table under independent choices, with a gradient.

    The same number as :meth:`fpnas.cost.CostModel.expected_macs`. It is exact: the widths between
    the groups are summed over, not replaced by their means.
    """

    def __init__(self, cost_model: CostModel) -> None:
        tables, end = cost_model.group_macs()
        self._tables = [torch.tensor(table, dtype=torch.float64) for table in tables]
        self._end = torch.tensor(end, dtype=torch.float64)

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Maps probabilities (G, M, C) to multiply-accumulates for one picture, a scalar."""
        width = torch.ones(1, dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        for rows, table in zip(probabilities.double(), self._tables, strict=True):
            own = [row[:size] for row, size in zip(rows, table.shape[1:], strict=True)]
            remaining = table
            for row in (width, *own):
                remaining = torch.tensordot(row, remaining, dims=1)
            total, width = total + remaining, own[CHANNELS]
        return total + width @ self._end


@dataclass(frozen=True)
class ArchitectureStep:
    """What the architecture half says about gates.

    Attributes:
        loss: Mean cross-entropy, nats.
        gradient: Of the loss, by the gates, (G, M, C).
        batch_size: The number of pictures.
    """

    loss: float
    gradient: Tensor
    batch_size: int


class MaskedEvaluator(AbstractWeights[MaskedSupernet]):
    """Trains the network that holds all choices, and tells how its loss depends on the gates.

    Args:
        supernet: All weights.
        weight_batches: The half of the pictures that trains the weights.
        architecture_batches: The half that trains the gates' logits.
        momentum: Of SGD.
        weight_decay: Of SGD.
        max_grad_norm: The gradient of the weights is scaled down to this norm.

    Attributes:
        bill: Passes of the whole network, each as dear as many of a single architecture.
    """

    def weight_step(self, gates: Tensor, learning_rate: float) -> float:
        """One SGD step on the next batch of the weight half.

        Args:
            gates: (G, M, C); taken as constants.
            learning_rate: Of SGD.

        Returns:
            Mean cross-entropy before the step, nats.

        Raises:
            DivergedError: The gradient is NaN or infinite. The weights are left as they were.
        """
        images, labels = next(self._iterators[0])
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(gates.detach().to(images.device), images, labels)
        loss.backward()
        self.bill.num_backwards += 1
        self.descend(learning_rate, loss.item())
        return loss.item()

    def architecture_step(self, gates: Tensor) -> ArchitectureStep:
        """The gradient by the gates (G, M, C), on the next batch of the architecture half.

        The weights stay as they are, and get no gradient.

        Raises:
            DivergedError: The loss or the gradient is NaN or infinite.
        """
        images, labels = next(self._iterators[1])
        leaf = gates.detach().to(images.device).requires_grad_()
        loss = self._loss(leaf, images, labels)
        (gradient,) = torch.autograd.grad(loss, leaf)
        self.bill.num_backwards += 1
        if not (torch.isfinite(loss) and torch.isfinite(gradient).all()):
            raise DivergedError(f"the gradient by the gates is not finite (loss {loss.item()})")
        return ArchitectureStep(loss.item(), gradient.to(gates.device), len(labels))

    def _loss(self, gates: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        self.bill.num_forwards += 1
        return F.cross_entropy(self.supernet(images, gates).float(), labels)


class DnasSearch(AbstractSearch):
    """Learns the logits of the gates by descent, together with the weights under them.

    Of the options it uses the numbers of steps, ``cost_weight``, both learning rates and what
    every search records; the loss of the logits is

        cross-entropy + cost_weight * max(0, E[MACs] / target - 1)

    with the expectation under the gates, as in FBNetV2. The form of the cost term is that of
    FP-NAS, so that the two searches aim at the same.

    Args:
        distribution: To start from; changed in place.
        evaluator: The network that holds all choices.
        cost_model: Of the space that the distribution is over.
        options: How to search.
        dnas: What this search needs beside.
        seed: Of the gates.
    """

    distribution: FactorizedDistribution

    def __init__(
        self,
        distribution: FactorizedDistribution,
        evaluator: MaskedEvaluator,
        cost_model: CostModel,
        options: SearchOptions,
        dnas: DnasOptions,
        seed: int,
    ) -> None:
        super().__init__(distribution, cost_model, options, seed)
        self.evaluator, self.dnas = evaluator, dnas
        self.expected_macs = ExpectedMacs(cost_model)
        self.optimizer = torch.optim.Adam(
            [distribution.logits], lr=options.architecture_learning_rate, betas=(0.5, 0.999)
        )

    def advance(self) -> dict[str, float]:
        """Trains the weights under drawn gates, then the logits under others.

        Every drawn set of gates counts as one sample, although it costs as much as many
        architectures: see the evaluator's bill.
        """
        temperature = temperature_at(self.step, self.options.num_steps, self.dnas)
        gates = self._draw(temperature).detach()
        loss = self.evaluator.weight_step(gates, learning_rate_at(self.step, self.options))
        warming_up = self.step < self.options.warmup_steps
        measured = {} if warming_up else self._update(temperature)
        num_samples = 1 if warming_up else 2
        self.num_samples += num_samples
        return {
            "num_samples": float(num_samples),
            "temperature": temperature,
            "loss": loss,
            "num_invalid": 0.0,  # a loss that is not finite ends the search
            **measured,
        }

    def _draw(self, temperature: float) -> Tensor:
        return gumbel_softmax(self.distribution.log_probs(), temperature, self.generator)

    def _update(self, temperature: float) -> dict[str, float]:
        """One step on the logits."""
        logits, options = self.distribution.logits, self.options
        gates = self._draw(temperature)
        measured = self.evaluator.architecture_step(gates)
        macs = self.expected_macs(gates)
        excess = (macs / self.cost_model.space.target_macs - 1.0).clamp(min=0.0)
        # Its gradient by the gates is the one measured.
        surrogate = (gates * measured.gradient).sum() + options.cost_weight * excess
        (logits.grad,) = torch.autograd.grad(surrogate, logits)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not torch.isfinite(logits).all():
            raise DivergedError(f"the architecture parameters are not finite at step {self.step}")
        return {"mean_log_likelihood": -measured.loss * measured.batch_size}

    def state(self) -> dict[str, Any]:
        """As a tree of tensors and scalars."""
        return {**super().state(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state`."""
        super().load_state(state)
        self.optimizer.load_state_dict(state["optimizer"])


def gumbel_softmax(log_probs: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Draws gates softmax((log p + Gumbel noise) / temperature), (G, M, C).

    Args:
        log_probs: Minus infinity in the padding, where the gates are zero.
        temperature: Towards 0 the gates become one-hot draws, with these probabilities.
        generator: Of the noise.
    """
    drawn = torch.empty_like(log_probs).exponential_(generator=generator)
    # One draw in 2^24 is 0, which would send infinity, and then NaN, into the softmax.
    noise = -drawn.clamp_(min=torch.finfo(drawn.dtype).tiny).log()
    return torch.softmax((log_probs + noise) / temperature, dim=-1)


def temperature_at(step: int, num_steps: int, options: DnasOptions) -> float:
    """Temperature of the gates: exponential from the first step to the last."""
    progress = step / max(num_steps - 1, 1)
    start, end = options.temperature, options.final_temperature
    return float(start * (end / start) ** progress)
