"""Evaluation by hand."""

import math

import pytest
import torch
from torch import nn

from fpnas.training.evaluation import evaluate, evaluate_details


class Given(nn.Module):
    """Returns its input as logits, and remembers its mode."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def forward(self, logits):
        self.modes.append((self.training, torch.is_grad_enabled()))
        return logits


def test_top1_and_top5_by_hand():
    ranks = torch.tensor([[7.0, 6, 5, 4, 3, 2, 1]])  # class 0 first, class 6 last
    batches = [
        (ranks.repeat(3, 1), torch.tensor([0, 1, 4])),  # first, second, fifth
        (ranks.repeat(2, 1), torch.tensor([5, 0])),  # sixth, first
    ]
    network = Given()
    result = evaluate(network, batches)
    assert (result.top1, result.top5, result.num_images) == (2 / 5, 4 / 5, 5)
    losses = ranks.logsumexp(1).item() - torch.tensor([7.0, 6, 3, 2, 7])
    # Every picture counts alike, whatever its batch.
    assert result.loss == pytest.approx(losses.mean().item(), rel=1e-6)
    assert network.modes == [(False, False)] * 2
    assert network.training


def test_the_mode_is_left_as_it_was():
    network = Given().eval()
    evaluate(network, [(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))])
    assert not network.training


def test_with_fewer_than_five_classes_top5_is_certain():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    result = evaluate(Given(), [(logits, torch.tensor([2, 2]))])
    assert (result.top1, result.top5) == (0.5, 1.0)
    assert result.loss == pytest.approx(math.log(sum(math.exp(i) for i in range(3))) - 1)


def test_confusion_and_calibration_by_hand():
    sure, unsure = math.log(9.0), math.log(1.5)  # 0.9 and 0.6 of two classes
    logits = torch.tensor([[sure, 0.0], [sure, 0.0], [0.0, sure], [0.0, unsure], [unsure, 0.0]])
    labels = torch.tensor([0, 1, 1, 0, 0])
    batches = [(logits[:3], labels[:3]), (logits[3:], labels[3:])]
    details = evaluate_details(Given(), batches, 2)
    assert details.confusion.tolist() == [[2, 1], [1, 1]]
    # Three of confidence 0.9 with two right, two of 0.6 with one right.
    expected = (abs(3 * 0.9 - 2) + abs(2 * 0.6 - 1)) / 5
    assert details.calibration_error == pytest.approx(expected, rel=1e-6)


def test_a_perfect_and_certain_network_is_calibrated():
    logits = torch.eye(3) * 100
    details = evaluate_details(Given(), [(logits, torch.arange(3))], 3)
    assert details.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert details.calibration_error == pytest.approx(0, abs=1e-6)
