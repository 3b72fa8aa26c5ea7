"""Distillation: its loss by hand."""

import pytest
import torch
from torch.nn import functional as F

from fpnas.training.distillation import alpha_divergence, distillation_loss, logit_accuracy
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


def test_the_hard_loss_takes_the_teachers_choice():
    loss = distillation_loss(TEACHER, kind="hard", temperature=3.0, weight=0.4, label_smoothing=0.1)
    expected = 0.6 * F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    expected = expected + 0.4 * F.cross_entropy(LOGITS, TEACHER[ROWS].argmax(1))
    torch.testing.assert_close(loss(LOGITS, LABELS, ROWS), expected)


def distributions(scale=1.0):
    generator = torch.Generator().manual_seed(1)
    p, q = (scale * torch.randn(6, 5, generator=generator) for _ in range(2))
    return p.double(), q.double()


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 2.0])
def test_the_alpha_divergence_by_its_definition(alpha):
    p, q = (logits.softmax(1) for logits in distributions())
    if alpha in (0.0, 1.0):
        a, b = (p, q) if alpha else (q, p)
        expected = (a * (a / b).log()).sum(1)
    else:
        expected = (q * ((p / q) ** alpha - 1)).sum(1) / (alpha * (alpha - 1))
    found = alpha_divergence(p.log(), q.log(), alpha)
    torch.testing.assert_close(found, expected)
    assert (found > 0).all()
    assert alpha_divergence(p.log(), p.log(), alpha).abs().max() < 1e-12


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 1.0])
def test_its_gradient_is_that_of_the_definition_where_nothing_is_clipped(alpha):
    p_logits, q_logits = distributions(0.2)
    p = p_logits.softmax(1)

    def definition(logits):
        q = logits.softmax(1)
        if alpha == 1.0:
            return (p * (p / q).log()).sum()
        return ((q * ((p / q) ** alpha - 1)).sum(1) / (alpha * (alpha - 1))).sum()

    expected = torch.autograd.functional.jacobian(definition, q_logits)
    q_logits.requires_grad_()
    alpha_divergence(p.log(), q_logits.log_softmax(1), alpha).sum().backward()
    torch.testing.assert_close(q_logits.grad, expected)


def test_a_sure_and_wrong_teacher_has_a_bounded_gradient():
    p_log = torch.tensor([[0.0, -50.0]]).log_softmax(1)
    student = torch.tensor([[-50.0, 0.0]], requires_grad=True)
    alpha_divergence(p_log, student.log_softmax(1), -1.0).sum().backward()
    assert 0 < student.grad.abs().max() <= 5


def test_the_alpha_loss_takes_the_larger_divergence_of_every_picture():
    loss = distillation_loss(TEACHER, kind="alpha", temperature=2.0, weight=1.0, label_smoothing=0)
    p, q = ((z / 2).log_softmax(1) for z in (TEACHER[ROWS], LOGITS))
    both = torch.stack([alpha_divergence(p, q, -1.0), alpha_divergence(p, q, 1.0)])
    torch.testing.assert_close(loss(LOGITS, LABELS, ROWS), 4 * both.max(0).values.mean())


def test_rows_may_be_renewed():
    table = TEACHER.clone()
    loss = distillation_loss(table, temperature=1.0, weight=1.0, label_smoothing=0)
    table[ROWS] = LOGITS
    assert loss(LOGITS, LABELS, ROWS).item() == pytest.approx(0, abs=1e-6)
