"""The training loop: one network, one recipe, resumable at any step.

Tensor shapes: B pictures, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fpnas.errors import DivergedError
from fpnas.training.evaluation import Evaluation
from fpnas.training.recipe import Recipe

TRAINING_COLUMNS = ("epoch", "learning_rate", "train_loss", "val_loss", "top1", "top5")

TrainingBatch = tuple[Tensor, Tensor, Tensor]
"""Normalized pictures (B, 3, H, W), labels (B,) and rows of the split (B,)."""

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps logits (B, C), labels (B,) and rows (B,) to a scalar."""


class TrainingBatches(Protocol):
    """Endless training batches that can be resumed."""

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Goes on from the current position."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def state_dict(self) -> dict[str, int]:
        """The position."""

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Moves to a position."""


def label_loss(recipe: Recipe) -> Loss:
    """Cross-entropy with the recipe's label smoothing."""

    def loss(logits: Tensor, labels: Tensor, _rows: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)

    return loss


def build_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Returns the recipe's optimiser; norms and biases are not decayed."""
    decayed = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(
        groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov
    )


def _average(decay: float) -> Callable[[Any, Any, Any], None]:
    """A moving average that starts fast: short runs must not keep their initial weights."""

    def update(averaged: Any, current: Any, num_averaged: Any) -> None:
        count = int(num_averaged)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(averaged, current, count)

    return update


class Trainer:
    """A training run: its state, and how to go on with it.

    Args:
        network: Trained in place.
        batches: Training batches.
        recipe: How.
        loss: What is minimized.
        evaluate: Scores a network on the validation pictures.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: TrainingBatches,
        recipe: Recipe,
        loss: Loss,
        evaluate: Callable[[nn.Module], Evaluation],
    ) -> None:
        self.network, self.batches, self.recipe = network, batches, recipe
        self.loss, self.evaluate = loss, evaluate
        self.optimizer = build_optimizer(network, recipe)
        self.average = (
            AveragedModel(network, multi_avg_fn=_average(recipe.ema_decay), use_buffers=True)
            if recipe.ema_decay
            else None
        )
        self.step = 0
        self.epoch_loss = 0.0
        self.history: list[list[float]] = []

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.recipe.epochs * len(self.batches)

    @property
    def final_network(self) -> nn.Module:
        """The network to evaluate and keep: the averaged one when there is one."""
        return self.average.module if self.average is not None else self.network

    def run(self, on_step: Callable[[dict[str, float] | None], None]) -> Evaluation:
        """Trains to the end of the recipe.

        Args:
            on_step: Called after every step; with the epoch's record (:data:`TRAINING_COLUMNS`)
                after the last step of an epoch, else with None. It may raise to stop.

        Returns:
            The evaluation after the last epoch.

        Raises:
            DivergedError: The loss or the gradient became NaN or infinite.
        """
        self.network.train()
        iterator = iter(self.batches)
        while self.step < self.num_steps:
            self._train_step(*next(iterator))
            record = None
            if self.step % len(self.batches) == 0:
                record = self._end_epoch()
            on_step(record)
        return self.evaluate(self.final_network)

    def _train_step(self, images: Tensor, labels: Tensor, rows: Tensor) -> None:
        rate = self.recipe.learning_rate_at((self.step + 1) / len(self.batches))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.network(images), labels, rows)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.max_grad_norm)
        value = loss.item()
        if not (torch.isfinite(norm) and torch.isfinite(loss.detach())):
            raise DivergedError(
                f"the loss is {value} and its gradient {norm.item()} at step {self.step}; "
                "lower recipe.learning_rate or raise recipe.warmup_epochs"
            )
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        self.step += 1
        self.epoch_loss += value

    def _end_epoch(self) -> dict[str, float]:
        evaluation = self.evaluate(self.final_network)
        epoch = self.step / len(self.batches)
        scores = asdict(evaluation)
        record = {
            "epoch": epoch,
            "learning_rate": self.recipe.learning_rate_at(epoch),
            "train_loss": self.epoch_loss / len(self.batches),
            "val_loss": scores["loss"],
            "top1": scores["top1"],
            "top5": scores["top5"],
        }
        self.epoch_loss = 0.0
        self.history.append([record[column] for column in TRAINING_COLUMNS])
        return record

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as a tree of tensors and scalars."""
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "average": dict(self.average.state_dict()) if self.average is not None else None,
            "batches": self.batches.state_dict(),
            "step": self.step,
            "epoch_loss": self.epoch_loss,
            "random": torch.get_rng_state(),  # dropout draws from it
            "history": torch.tensor(self.history, dtype=torch.float64),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.batches.load_state_dict(state["batches"])
        self.step, self.epoch_loss = state["step"], state["epoch_loss"]
        torch.set_rng_state(state["random"])
        self.history = state["history"].tolist()
