"""Distillation: its loss by hand."""

import pytest
import torch
from torch.nn import functional as F

from fpnas.training.distillation import distillation_loss, logit_accuracy, pick_classes
from fpnas.training.loop import label_loss
from fpnas.training.recipe import Recipe

GENERATOR = torch.Generator().manual_seed(0)
TEACHER = torch.randn(10, 4, generator=GENERATOR) * 3
LOGITS = torch.randn(3, 4, generator=GENERATOR)
LABELS, ROWS = torch.tensor([0, 3, 1]), torch.tensor([7, 0, 2])


def loss_at(weight, temperature=2.0, label_smoothing=0.1, logits=LOGITS):
    loss = distillation_loss(
        TEACHER, temperature=temperature, weight=weight, label_smoothing=label_smoothing
    )
    return loss(logits, LABELS, ROWS)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_loss_by_hand(temperature):
    soft = 0.0
    for row, logits in zip(ROWS, LOGITS, strict=True):
        p, q = (torch.softmax(z / temperature, 0) for z in (TEACHER[row], logits))
        soft += float((p * (p.log() - q.log())).sum()) / 3
    hard = float(F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1))
    expected = 0.3 * hard + 0.7 * temperature**2 * soft
    assert loss_at(0.7, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_without_weight_it_is_the_label_loss():
    recipe = Recipe(epochs=2, label_smoothing=0.1)
    torch.testing.assert_close(loss_at(0.0), label_loss(recipe)(LOGITS, LABELS, ROWS))


def test_a_student_like_its_teacher_has_only_the_label_loss_left():
    same = TEACHER[ROWS]
    assert loss_at(1.0, logits=same + 4).item() == pytest.approx(0, abs=1e-5)
    assert loss_at(1.0).item() > 0.1


def test_the_gradient_pulls_towards_the_teacher():
    logits = LOGITS.clone().requires_grad_()
    loss_at(1.0, logits=logits, temperature=1.0).backward()
    expected = (torch.softmax(LOGITS, 1) - torch.softmax(TEACHER[ROWS], 1)) / 3
    torch.testing.assert_close(logits.grad, expected, rtol=1e-4, atol=1e-6)


def test_small_parts():
    logits = torch.tensor([[0.0, 1.0], [3.0, 1.0], [0.0, 2.0]])
    assert logit_accuracy(logits, torch.tensor([1, 0, 0])) == pytest.approx(2 / 3)
    picked = pick_classes(torch.arange(8.0).view(2, 4), [3, 1])
    assert picked.tolist() == [[3, 1], [7, 5]]
