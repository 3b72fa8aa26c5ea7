"""The supernet as an evaluator: one step by hand, likelihoods, divergence, resumption."""

import json

import pytest
import torch
from torch.nn import functional as F

from fpnas.errors import DivergedError
from fpnas.estimator import importance_weights
from fpnas.networks.supernet import Supernet
from fpnas.search.engine import Engine
from fpnas.search.evaluator import SupernetEvaluator, TableEvaluator
from fpnas.search.weights import Bill
from fpnas.space import load_space
from fpnas.state import pack, unpack

from .memory import MemoryBatches

CLASSES, BATCH = 3, 4
SPACE = load_space("tiny").open(input_size=8)
FIRST = torch.tensor([[0, 0, 1, 0, 0]] * 5)
SECOND = torch.tensor([[0, 1, 0, 1, 2]] * 5)


def make_evaluator(*, scale=1.0, **options):
    torch.manual_seed(0)
    values = {
        "temperature": "sum",
        "ess_fraction": 0.5,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "max_grad_norm": 1e9,
    }
    supernet = Supernet(SPACE, CLASSES)
    sources = MemoryBatches(1, scale), MemoryBatches(2, scale)
    return SupernetEvaluator(supernet, *sources, **{**values, **options})


def losses_of(supernet, points, images, labels):
    logits = [supernet(images, supernet.architecture(point)) for point in points]
    return torch.stack([F.cross_entropy(z, labels) for z in logits])


def test_likelihoods_are_those_of_the_architecture_half():
    evaluator = make_evaluator()
    images, labels = MemoryBatches(2).batch(0)
    with torch.no_grad():
        losses = losses_of(evaluator.supernet, [FIRST, SECOND], images, labels)
    before = [p.clone() for p in evaluator.supernet.parameters()]
    values, number = evaluator.log_likelihood(torch.stack([SECOND, FIRST, SECOND]))
    assert number == BATCH
    expected = -BATCH * losses[[1, 0, 1]].double()
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)
    assert all(map(torch.equal, evaluator.supernet.parameters(), before))
    # The next call sees the next batch.
    assert not torch.equal(evaluator.log_likelihood(FIRST[None])[0], values[1:2])


@pytest.mark.parametrize("keep", [True, False])
def test_a_training_step_by_hand(keep):
    evaluator = make_evaluator(engine=Engine(keep_activations=keep))
    twin = make_evaluator().supernet
    images, labels = MemoryBatches(1).batch(0)
    losses = losses_of(twin, [FIRST, SECOND], images, labels)
    # FIRST was drawn twice: it counts twice.
    drawn = importance_weights(
        -BATCH * losses.detach()[[0, 0, 1]], batch_size=BATCH, temperature="sum"
    ).weights
    weights = torch.stack([drawn[0] + drawn[1], drawn[2]])
    assert 0.02 < weights[1] < 0.98  # both count
    loss = (weights * losses).sum()
    loss.backward()
    returned = evaluator.train_step(torch.stack([FIRST, SECOND, FIRST]), learning_rate=0.1)
    assert returned.loss == pytest.approx(loss.item(), rel=1e-5)
    expected = -BATCH * losses.detach()[[0, 1, 0]].double()
    torch.testing.assert_close(returned.log_likelihoods, expected, rtol=1e-5, atol=1e-5)
    assert evaluator.bill == Bill(num_forwards=2 if keep else 4, num_backwards=2)
    for (name, parameter), other in zip(
        twin.named_parameters(), evaluator.supernet.parameters(), strict=True
    ):
        if parameter.grad is None:
            assert torch.equal(other, parameter), name
        else:  # Nesterov's first step is 1 + momentum times the gradient's
            moved = parameter - 0.1 * 1.9 * parameter.grad
            torch.testing.assert_close(other, moved, rtol=1e-4, atol=1e-5)


def test_the_gradient_is_scaled_down():
    evaluator = make_evaluator(max_grad_norm=1e-3)
    before = [p.clone() for p in evaluator.supernet.parameters()]
    evaluator.train_step(FIRST[None], learning_rate=1.0)
    moved = sum(
        float((p.detach() - b.detach()).square().sum())
        for p, b in zip(evaluator.supernet.parameters(), before, strict=True)
    )
    assert 0 < moved**0.5 <= 1.9e-3 * 1.01


def test_training_lowers_the_loss_of_what_is_trained(monkeypatch):
    # Always the same four pictures: with new ones the statistics of so small a batch rule.
    batch = MemoryBatches(1).batch(0)
    monkeypatch.setattr(MemoryBatches, "batch", lambda self, position: batch)
    evaluator = make_evaluator()
    losses = [evaluator.train_step(FIRST[None], 0.005).loss for _ in range(40)]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("points", [[FIRST], [FIRST, SECOND]])
def test_pictures_that_are_not_numbers_diverge(points):
    evaluator = make_evaluator(scale=float("nan"))
    before = [p.clone() for p in evaluator.supernet.parameters()]
    with pytest.raises(DivergedError, match="nan"):
        evaluator.train_step(torch.stack(points), 0.1)
    with pytest.raises(DivergedError, match="nan"):
        evaluator.log_likelihood(FIRST[None])
    assert all(map(torch.equal, evaluator.supernet.parameters(), before))


def test_it_goes_on_as_if_it_had_not_stopped():
    points = torch.stack([FIRST, SECOND])
    evaluator = make_evaluator()
    evaluator.train_step(points, 0.1)
    evaluator.log_likelihood(points)
    tensors, structure = pack(evaluator.state())
    tensors = {path: tensor.clone() for path, tensor in tensors.items()}
    expected = evaluator.train_step(points, 0.1), *evaluator.log_likelihood(points)
    other = make_evaluator()
    other.load_state(unpack(tensors, json.loads(json.dumps(structure))))
    found = other.train_step(points, 0.1), *other.log_likelihood(points)
    assert found[0].loss == expected[0].loss
    assert other.bill == evaluator.bill
    assert torch.equal(found[1], expected[1])
    assert all(map(torch.equal, other.supernet.parameters(), evaluator.supernet.parameters()))


def test_a_table_returns_its_values():
    table = TableEvaluator(lambda choices: -choices.sum(dim=(1, 2)).double(), batch_size=2)
    points = torch.stack([FIRST, SECOND])
    values, number = table.log_likelihood(points)
    assert values.tolist() == [-5, -20]
    assert number == 2
    assert table.train_step(points, 0.1).loss == 12.5 / 2
    assert table.state() == {}


def test_momentum_may_be_zero():
    make_evaluator(momentum=0.0).train_step(FIRST[None], 0.1)
