"""Distillation: a teacher's logits on every training picture, and the loss that uses them.

Tensor shapes: N pictures of a split, B pictures of a batch, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fpnas.training.loop import Loss


def distillation_loss(
    teacher_logits: Tensor, *, temperature: float, weight: float, label_smoothing: float
) -> Loss:
    """Cross-entropy with the labels, mixed with that to the softened teacher.

    (1 - weight) CE(y, z) + weight T^2 KL(softmax(t / T) || softmax(z / T)), after Hinton et al.,
    "Distilling the Knowledge in a Neural Network" (2015). The paper distils "vanilla", without
    temperature and weight; they are ours.

    Args:
        teacher_logits: One row a training picture, float32 (N, C).
        temperature: T, softens both.
        weight: Of the teacher, 0 to 1.
        label_smoothing: Of the cross-entropy with the labels.
    """
    targets = F.log_softmax(teacher_logits / temperature, dim=1)

    def loss(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        hard = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        softened = F.log_softmax(logits / temperature, dim=1)
        softened_teacher = targets[rows.to(targets.device)].to(logits.device)
        soft = F.kl_div(softened, softened_teacher, reduction="batchmean", log_target=True)
        return (1 - weight) * hard + weight * temperature**2 * soft

    return loss


def logit_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows (N, C) whose largest entry is the label (N,)."""
    return float((logits.argmax(dim=1) == labels).double().mean())


def pick_classes(logits: Tensor, indices: list[int]) -> Tensor:
    """Restricts a teacher's logits (B, all of its classes) to ours (B, C), in our order."""
    return logits[:, torch.tensor(indices)]
