"""The training loop: one network, one recipe, resumable at any step.

Tensor shapes: B pictures, C classes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpnas.errors import DivergedError
from fpnas.packages import require_compiler
from fpnas.parallel import Ranks
from fpnas.training.evaluation import Evaluation
from fpnas.training.mixing import mix
from fpnas.training.optimization import build_average, build_optimizer, seed_draws
from fpnas.training.recipe import Recipe

TRAINING_COLUMNS = (
    *("epoch", "learning_rate", "train_loss", "val_loss", "top1", "top5"),
    "skipped_steps",
)
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LOG = logging.getLogger("fpnas")

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

    def state_dict(self) -> dict[str, Any]:
        """The position."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves to a position."""


def label_loss(recipe: Recipe) -> Loss:
    """Cross-entropy with the recipe's label smoothing."""

    def loss(logits: Tensor, labels: Tensor, _rows: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)

    return loss


class Trainer:
    """A training run: its state, and how to go on with it.

    Args:
        network: Trained in place.
        batches: Training batches.
        recipe: How.
        loss: What is minimized.
        evaluate: Scores a network on the validation pictures.
        seed: Of dropout, stochastic depth and mixing.
        ranks: The processes that share every step, each with its own part of the batches. Their
            gradients are summed, weighted by their pictures, and their running statistics are
            averaged after every step, so that all hold the same network.

    Attributes:
        history: One row an epoch, the columns of :data:`TRAINING_COLUMNS`.
        num_skipped: Steps whose loss or gradient was not finite.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: TrainingBatches,
        recipe: Recipe,
        loss: Loss,
        evaluate: Callable[[nn.Module], Evaluation],
        seed: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        self.network, self.batches, self.recipe = network, batches, recipe
        self.loss, self.evaluate, self.seed = loss, evaluate, seed
        self.ranks = ranks or Ranks()
        self.optimizer = build_optimizer(network, recipe)
        self.average = build_average(network, recipe.ema_decay)
        device = next(network.parameters()).device.type
        self._scaler = torch.amp.GradScaler(device, enabled=recipe.precision == "fp16")
        self._autocast = torch.autocast(
            device, _DTYPES[recipe.precision], enabled=recipe.precision != "fp32"
        )
        if recipe.compile:
            require_compiler()
        self._forward = torch.compile(network) if recipe.compile else network
        self.step = 0
        self.history: list[list[float]] = []
        self.num_skipped = self._skipped_in_a_row = self._skipped_before = 0
        self._epoch_loss = 0.0

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
            DivergedError: The loss or the gradient was NaN or infinite in more steps in a row
                than the recipe bears.
            RanksError: The ranks' networks differ, or a rank is gone.
        """
        self.network.train()
        self._check_ranks()
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
        statistics = [buffer.clone() for buffer in self.network.buffers()]
        loss = self._backward(images, labels, rows)
        self._scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(
            self.network.parameters(), self.recipe.max_grad_norm or math.inf
        ).item()
        if math.isfinite(norm) and math.isfinite(loss):
            self._scaler.step(self.optimizer)
            self.ranks.average_buffers(self.network.buffers())
            if self.average is not None:
                self.average.update_parameters(self.network)
            self._epoch_loss += loss
            self._skipped_in_a_row = 0
        else:
            self._skip(loss, norm, statistics)
        self._scaler.update()
        self.step += 1

    def _backward(self, images: Tensor, labels: Tensor, rows: Tensor) -> float:
        """Computes the gradient of a step over all ranks, and returns its loss."""
        seed_draws(self.seed, self.step)
        mixed = mix(images, self.recipe)
        if mixed is not None:
            images = mixed.images
        num_pictures = self._sum(len(rows))
        if self.ranks.size > 1:  # mixed alike, but dropped out each for itself
            seed_draws(self.seed, self.step, self.ranks.rank)
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        total = 0.0
        for part in torch.arange(len(rows)).tensor_split(self.recipe.accumulation):
            own = slice(int(part[0]), int(part[-1]) + 1)
            with self._autocast:
                logits = self._forward(images[own].contiguous(memory_format=layout))
            if self.recipe.precision != "fp32":
                logits = logits.float()
            loss = self.loss(logits, labels[own], rows[own])
            if mixed is not None:
                partners = mixed.partners[own]
                other = self.loss(logits, labels[partners.to(labels.device)], rows[partners])
                loss = mixed.share * loss + (1 - mixed.share) * other
            loss = loss * (len(part) / num_pictures)
            self._scaler.scale(loss).backward()
            total += loss.item()
        self.ranks.sum_gradients(self.network.parameters())
        return self._sum(total)

    def _sum(self, value: float) -> float:
        """The sum over all ranks."""
        if self.ranks.size == 1:
            return value
        return self.ranks.sum(
            torch.tensor(value, dtype=torch.float64, device=self.ranks.device)
        ).item()

    def _check_ranks(self) -> None:
        """Makes sure that all ranks hold the same network."""
        if self.ranks.size > 1:
            state = self.network.state_dict().values()
            self.ranks.check_equal(
                torch.cat([value.double().flatten() for value in state]), "weights"
            )

    def _skip(self, loss: float, norm: float, statistics: list[Tensor]) -> None:
        """Passes over a step, as if its pictures had not been seen.

        Raises:
            DivergedError: There were too many in a row.
        """
        # The forward pass has put the pictures into the running statistics.
        for buffer, before in zip(self.network.buffers(), statistics, strict=True):
            buffer.copy_(before)
        self.num_skipped += 1
        self._skipped_in_a_row += 1
        _LOG.warning("step %d is skipped: loss %s, gradient %s", self.step, loss, norm)
        if self._skipped_in_a_row > self.recipe.max_skipped_steps:
            raise DivergedError(
                f"the loss is {loss} and its gradient {norm} at step {self.step}, after "
                f"{self._skipped_in_a_row - 1} skipped steps in a row; "
                "lower recipe.learning_rate or raise recipe.warmup_epochs"
            )

    def _end_epoch(self) -> dict[str, float]:
        self._check_ranks()
        evaluation = self.evaluate(self.final_network)
        epoch = self.step / len(self.batches)
        scores = asdict(evaluation)
        skipped = self.num_skipped - self._skipped_before
        num_made = len(self.batches) - skipped
        record = {
            "epoch": epoch,
            "learning_rate": self.recipe.learning_rate_at(epoch),
            "train_loss": self._epoch_loss / num_made if num_made else math.nan,
            "val_loss": scores["loss"],
            "top1": scores["top1"],
            "top5": scores["top5"],
            "skipped_steps": float(skipped),
        }
        self._epoch_loss, self._skipped_before = 0.0, self.num_skipped
        self.history.append([record[column] for column in TRAINING_COLUMNS])
        return record

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on, as a tree of tensors and scalars."""
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "average": dict(self.average.state_dict()) if self.average is not None else None,
            "scaler": self._scaler.state_dict(),
            "batches": self.batches.state_dict(),
            "step": self.step,
            "epoch_loss": self._epoch_loss,
            "skipped": [self.num_skipped, self._skipped_in_a_row, self._skipped_before],
            "history": torch.tensor(self.history, dtype=torch.float64),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self._scaler.load_state_dict(state["scaler"])
        self.batches.load_state_dict(state["batches"])
        self.step, self._epoch_loss = state["step"], state["epoch_loss"]
        self.num_skipped, self._skipped_in_a_row, self._skipped_before = state["skipped"]
        self.history = state["history"].tolist()
