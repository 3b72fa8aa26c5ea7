"""Evaluation of a classifier."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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


@torch.no_grad()
def evaluate(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Evaluates a network in evaluation mode, and leaves it in the mode it was in.

    Args:
        network: Maps (B, 3, H, W) to logits (B, C).
        batches: Normalized pictures and labels.
    """
    training = network.training
    network.eval()
    top1 = top5 = total = 0
    loss = 0.0
    for images, labels in batches:
        logits = network(images)
        ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
        hits = ranked == labels[:, None]
        top1 += int(hits[:, 0].sum())
        top5 += int(hits.any(dim=1).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        total += len(labels)
    network.train(training)
    return Evaluation(top1 / total, top5 / total, loss / total, total)
