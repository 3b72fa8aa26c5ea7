"""Evaluation of a classifier.

Tensor shapes: B pictures, C classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpnas.parallel import Ranks

_NUM_BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """Accuracy of a network on one pass over a split.

    Attributes:
        top1: Share of pictures whose class is ranked first.
        top5: Share of pictures whose class is among the first five.
        loss: Mean cross-entropy, nats.
        num_images: Pictures seen.
    """

    top1: float
    top5: float
    loss: float
    num_images: int


@dataclass(frozen=True)
class Details:
    """Where a network errs, and how far its confidence can be trusted.

    Attributes:
        confusion: Pictures by their class and by the class ranked first, int64 (C, C).
        calibration_error: Expected calibration error (Guo et al., ICML 2017): the mean gap between
            confidence and accuracy in 15 bins of confidence, weighted by their pictures.
    """

    confusion: Tensor
    calibration_error: float


def evaluate(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], ranks: Ranks | None = None
) -> Evaluation:
    """Evaluates a network in evaluation mode, and leaves it in the mode it was in.

    Args:
        network: Maps (B, 3, H, W) to logits (B, C).
        batches: Normalized pictures and labels; of each rank its own, which may be none.
        ranks: The processes that share the split; all of them get the same evaluation.
    """
    ranks = ranks or Ranks()
    top1 = top5 = total = 0
    loss = 0.0
    for logits, labels in _outputs(network, batches):
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = ranked == labels[:, None]
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.any(dim=1).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        total += len(labels)
    sums = torch.tensor([top1, top5, loss, total], dtype=torch.float64, device=ranks.device)
    top1, top5, loss, total = ranks.sum(sums).tolist()
    return Evaluation(top1 / total, top5 / total, loss / total, int(total))


def evaluate_details(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], num_classes: int
) -> Details:
    """Evaluates a network as :func:`evaluate` does, for the :class:`Details`."""
    confusion = torch.zeros(num_classes * num_classes, dtype=torch.int64)
    sums = torch.zeros(3, _NUM_BINS, dtype=torch.float64)  # pictures, confidence, hits
    for logits, labels in _outputs(network, batches):
        confidence, first = logits.softmax(dim=1).max(dim=1)
        confusion += torch.bincount(
            (labels * num_classes + first).cpu(), minlength=num_classes * num_classes
        )
        values = torch.stack([torch.ones_like(confidence), confidence, (first == labels).float()])
        bins = (confidence * _NUM_BINS).ceil().long().sub(1).clamp(0, _NUM_BINS - 1)
        sums.index_add_(1, bins.cpu(), values.double().cpu())
    pictures, confidences, hits = sums
    error = float((confidences - hits).abs().sum() / pictures.sum())
    return Details(confusion.view(num_classes, num_classes), error)


def _outputs(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and labels in evaluation mode."""
    training = network.training
    network.eval()
    for images, labels in batches:
        with torch.no_grad():
            logits = network(images)
        yield logits, labels
    network.train(training)
