"""Distillation: the losses by which a student learns from a teacher's logits.

Tensor shapes: N pictures of a split, B pictures of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from fpnas.training.loop import Loss

Kind = Literal["soft", "hard", "alpha"]
KINDS: tuple[str, ...] = get_args(Kind)
ALPHA_MIN, ALPHA_MAX, RATIO_CLIP = -1.0, 1.0, 5.0
"""Of the alpha-divergence, as AlphaNet trains with it."""


def distillation_loss(
    teacher_logits: Tensor,
    *,
    kind: Kind = "soft",
    temperature: float,
    weight: float,
    label_smoothing: float,
) -> Loss:
    """Cross-entropy with the labels, mixed with what the teacher says.

    (1 - weight) CE(y, z) + weight D(t, z), where D is

    * ``soft``: T^2 KL(softmax(t / T) || softmax(z / T)); Hinton et al., "Distilling the Knowledge
      in a Neural Network" (2015);
    * ``hard``: CE(argmax t, z); as in Touvron et al., "Training data-efficient image transformers"
      (ICML 2021);
    * ``alpha``: T^2 times the adaptive alpha-divergence of the same two distributions; see
      :func:`alpha_divergence`.

    The paper distils "vanilla", without temperature and weight; they are ours.

    Args:
        teacher_logits: One row a training picture, float32 (N, C). It is read at every call, so
            that rows may be renewed.
        kind: Which D.
        temperature: T, softens both.
        weight: Of the teacher, 0 to 1.
        label_smoothing: Of the cross-entropy with the labels.
    """
    divergence = _DIVERGENCES[kind]

    def loss(logits: Tensor, labels: Tensor, rows: Tensor) -> Tensor:
        told = teacher_logits[rows.to(teacher_logits.device)].to(logits.device)
        taught = divergence(told, logits, temperature)
        if weight == 1.0:
            return taught
        hard = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
        return (1 - weight) * hard + weight * taught

    return loss


def _soft(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    p, q = (F.log_softmax(logits / temperature, dim=1) for logits in (teacher, student))
    return temperature**2 * F.kl_div(q, p, reduction="batchmean", log_target=True)


def _hard(teacher: Tensor, student: Tensor, _temperature: float) -> Tensor:
    return F.cross_entropy(student, teacher.argmax(dim=1))


def _adaptive_alpha(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    p, q = (F.log_softmax(logits / temperature, dim=1) for logits in (teacher, student))
    both = torch.stack([alpha_divergence(p, q, alpha) for alpha in (ALPHA_MIN, ALPHA_MAX)])
    return temperature**2 * both.amax(dim=0).mean()


def alpha_divergence(p_log: Tensor, q_log: Tensor, alpha: float) -> Tensor:
    """The alpha-divergence of two distributions, with a bounded gradient.

    D_a(p || q) = (sum_c q_c (p_c / q_c)^a - 1) / (a (a - 1)); its limits are KL(p || q) at a = 1
    and KL(q || p) at a = 0. A large a punishes a student that overlooks what the teacher thinks
    possible, a negative one a student that thinks possible what the teacher does not. AlphaNet
    (Wang et al., ICML 2021) takes the larger of the two in every picture. The gradient is
    -(1 / a) sum_c q_c (p_c / q_c)^a grad log q_c; there (p / q)^a is clipped at 5, because it is
    unbounded (in the paper as well; what exactly is clipped is our reading).

    Args:
        p_log: Log-probabilities of the teacher (B, C).
        q_log: Log-probabilities of the student (B, C).
        alpha: a.

    Returns:
        One value a picture (B,), not negative. Its gradient is the clipped one.
    """
    q = q_log.exp()
    ratio = (alpha * (p_log - q_log)).exp()
    if alpha == 1:
        value = (p_log.exp() * (p_log - q_log)).sum(dim=1)
    elif alpha == 0:
        value = (q * (q_log - p_log)).sum(dim=1)
    else:
        value = ((q * ratio).sum(dim=1) - 1) / (alpha * (alpha - 1))
    if alpha == 0:
        return value
    slope = -(q * ratio.clamp(max=RATIO_CLIP)).detach() / alpha
    path = (slope * q_log).sum(dim=1)
    return value.detach() + path - path.detach()


_DIVERGENCES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "soft": _soft,
    "hard": _hard,
    "alpha": _adaptive_alpha,
}


def logit_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows (N, C) whose largest entry is the label (N,)."""
    return float((logits.argmax(dim=1) == labels).double().mean())
