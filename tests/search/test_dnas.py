"""Differentiable search: expected cost, gates, one step by hand, known optima, resumption."""

import json
import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.errors import DivergedError, InputError
from fpnas.networks.masked_supernet import MaskedSupernet
from fpnas.search.dnas import (
    ArchitectureStep,
    DnasSearch,
    ExpectedMacs,
    MaskedEvaluator,
    gumbel_softmax,
    temperature_at,
)
from fpnas.search.dnas_options import DnasOptions
from fpnas.search.loop import HISTORY_COLUMNS, run_search
from fpnas.search.options import SearchOptions
from fpnas.search.weights import Bill
from fpnas.space import KERNEL, load_space, parse_space
from fpnas.state import pack, unpack

from .memory import MemoryBatches

CLASSES, BATCH = 3, 4
TINY = load_space("tiny").open(input_size=8)
# The same in small, for the tests with many steps.
SMALL = parse_space(
    {
        "name": "small",
        "description": "two groups",
        "choices": {"kernel": [0, 3], "activation": ["relu", "swish"], "splits": [0, 2]},
        "stem": {"channels": 8, "stride": 2},
        "groups": [
            {"expansion": [1, 2, 1], "channels": [8, 16, 8], "repeat": 1, "stride": 1},
            {"expansion": [1.5, 4.5, 1.5], "channels": [16, 24, 8], "repeat": 1, "stride": 2},
        ],
        "head": {"channels": 32},
        "models": {"only": {"input_size": 8, "target_macs": 12_000}},
    },
    "here",
).open()


def make_evaluator(space=SMALL, *, seed=0, weight_decay=0.0, max_grad_norm=1e9, **batches):
    torch.manual_seed(seed)
    return MaskedEvaluator(
        MaskedSupernet(space, CLASSES),
        MemoryBatches(1, **batches),
        MemoryBatches(2, **batches),
        momentum=0.9,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
    )


class LinearEvaluator:
    """The log-likelihood is a sum of one value for every choice, so that the optimum is known."""

    def __init__(self, values):
        self.values, self.bill, self.calls = values, Bill(), []

    def weight_step(self, gates, learning_rate):
        self.calls.append(("weights", gates, learning_rate))
        return 1.0

    def architecture_step(self, gates):
        self.calls.append(("architecture", gates))
        return ArchitectureStep(-(gates * self.values).sum().item(), -self.values, 2)


def values_of(space, seed, scale=1.0):
    layout = ChoiceLayout.of(space)
    shape = (*layout.sizes.shape, int(layout.sizes.max()))
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    mask = torch.arange(shape[-1]) < layout.sizes.unsqueeze(-1)
    return values, values.masked_fill(~mask, -torch.inf).argmax(-1)


def start(evaluator, options, space=SMALL, seed=0, dnas=None):
    return DnasSearch(
        FactorizedDistribution(ChoiceLayout.of(space)),
        evaluator,
        CostModel(space, CLASSES),
        options,
        dnas or DnasOptions(),
        seed,
    )


def column(search, name):
    return [row[HISTORY_COLUMNS.index(name)] for row in search.history]


def random_distribution(space, seed):
    distribution = FactorizedDistribution(ChoiceLayout.of(space)).double()
    distribution.logits.data += values_of(space, seed)[0]
    return distribution


def through_storage(tree):
    tensors, structure = pack(tree)
    tensors = {path: tensor.clone() for path, tensor in tensors.items()}
    return unpack(tensors, json.loads(json.dumps(structure)))


@pytest.mark.parametrize("field", ["temperature", "final_temperature"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_temperatures_outside_their_range_are_refused_by_name(field, value):
    with pytest.raises(InputError) as caught:
        DnasOptions(**{field: value})
    assert caught.value.field == field


def test_a_temperature_that_rises_is_refused():
    with pytest.raises(InputError, match="is above the temperature"):
        DnasOptions(temperature=1.0, final_temperature=2.0)
    assert DnasOptions(temperature=1.0, final_temperature=1.0).temperature == 1.0


def test_the_options_do_not_load_torch():
    code = "import sys, fpnas.search.dnas_options; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["tiny", "fbnetv2_f", "sa_expanded"])
@pytest.mark.parametrize("seed", [0, 1])
def test_expected_macs_are_those_of_the_cost_model(name, seed):
    space = load_space(name).open()
    costs = CostModel(space, CLASSES)
    probabilities = random_distribution(space, seed).log_probs().detach().exp()
    sizes = ChoiceLayout.of(space).sizes.tolist()
    rows = [
        [p[:n].numpy() for p, n in zip(*pair, strict=True)]
        for pair in zip(probabilities, sizes, strict=True)
    ]
    joint = [np.einsum("a,b,c,d,e->abcde", *own) for own in rows]
    found = ExpectedMacs(costs)(probabilities)
    assert found.dtype == torch.float64
    assert found.item() == pytest.approx(costs.expected_macs(joint), rel=1e-12)


def test_expected_macs_of_one_hot_gates_are_those_of_the_architecture():
    costs = CostModel(TINY, CLASSES)
    generator = torch.Generator().manual_seed(0)
    points = FactorizedDistribution(ChoiceLayout.of(TINY)).sample(5, generator)
    width = int(ChoiceLayout.of(TINY).sizes.max())
    found = [ExpectedMacs(costs)(F.one_hot(point, width)).item() for point in points]
    assert found == costs.macs(points).tolist()


def test_the_gradient_of_expected_macs_is_that_of_finite_differences():
    expected = ExpectedMacs(CostModel(TINY, CLASSES))
    probabilities = random_distribution(TINY, 2).log_probs().detach().exp().requires_grad_()
    (gradient,) = torch.autograd.grad(expected(probabilities), probabilities)
    sizes = ChoiceLayout.of(TINY).sizes
    for index in torch.cartesian_prod(*map(torch.arange, probabilities.shape)).tolist():
        step = torch.zeros_like(probabilities)
        step[tuple(index)] = 0.1  # linear in each probability: any step will do
        with torch.no_grad():
            difference = (expected(probabilities + step) - expected(probabilities - step)) / 0.2
        assert gradient[tuple(index)].item() == pytest.approx(difference.item(), rel=1e-7)
        if index[2] >= sizes[index[0], index[1]]:
            assert gradient[tuple(index)] == 0


def test_gates_are_mixtures_and_follow_the_probabilities():
    distribution = random_distribution(SMALL, 1)
    log_probs = distribution.log_probs().detach()
    state = torch.random.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    gates = gumbel_softmax(log_probs.expand(20_000, -1, -1, -1), 5.0, generator)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(gates.sum(-1), torch.ones(20_000, 2, 5).double())
    assert not gates[..., ~distribution.mask].any()
    # The largest gate is a draw, at every temperature; a standard error is 0.0035 at most.
    counts = F.one_hot(gates.argmax(-1), gates.shape[-1]).double().mean(dim=0)
    torch.testing.assert_close(counts, log_probs.exp(), rtol=0, atol=0.015)
    cold = gumbel_softmax(log_probs, 1e-4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(cold.max(-1).values, torch.ones(2, 5).double())
    repeated = gumbel_softmax(log_probs, 1e-4, torch.Generator().manual_seed(0))
    assert torch.equal(cold, repeated)


def test_the_temperature_falls_exponentially():
    options = DnasOptions(temperature=4.0, final_temperature=0.25)
    found = [temperature_at(step, 5, options) for step in range(5)]
    assert found == pytest.approx([4, 2, 1, 0.5, 0.25])
    assert temperature_at(0, 1, options) == 4.0


def test_a_step_on_the_weights_by_hand():
    evaluator, twin = make_evaluator(), make_evaluator().supernet
    gates = random_distribution(SMALL, 3).float().log_probs().exp()
    images, labels = MemoryBatches(1).batch(0)
    loss = F.cross_entropy(twin(images, gates.detach()), labels)
    loss.backward()
    assert evaluator.weight_step(gates, learning_rate=0.1) == loss.item()
    for ours, theirs in zip(evaluator.supernet.parameters(), twin.parameters(), strict=True):
        # Nesterov's first step is 1 + momentum times the gradient's.
        torch.testing.assert_close(ours, theirs - 0.1 * 1.9 * theirs.grad, rtol=1e-4, atol=1e-5)
    assert (evaluator.bill.num_forwards, evaluator.bill.num_backwards) == (1, 1)
    assert evaluator.weight_step(gates, 0.1) != loss.item()  # the next batch


def test_the_gradient_of_the_weights_is_scaled_down():
    evaluator = make_evaluator(max_grad_norm=1e-3)
    before = [p.clone() for p in evaluator.supernet.parameters()]
    evaluator.weight_step(random_distribution(SMALL, 3).float().log_probs().exp(), 1.0)
    after = evaluator.supernet.parameters()
    moved = sum(float((p - b).detach().square().sum()) for p, b in zip(after, before, strict=True))
    assert 0 < moved**0.5 <= 1.9e-3 * 1.01


def test_a_step_on_the_gates_leaves_the_weights_alone():
    evaluator, twin = make_evaluator(), make_evaluator().supernet
    gates = random_distribution(SMALL, 3).float().log_probs().exp().detach().requires_grad_()
    images, labels = MemoryBatches(2).batch(0)
    loss = F.cross_entropy(twin(images, gates), labels)
    (gradient,) = torch.autograd.grad(loss, gates)
    found = evaluator.architecture_step(gates)
    assert (found.loss, found.batch_size) == (loss.item(), BATCH)
    assert torch.equal(found.gradient, gradient)
    assert not found.gradient.requires_grad
    assert gradient.any()
    assert all(map(torch.equal, evaluator.supernet.parameters(), twin.parameters()))
    assert all(parameter.grad is None for parameter in evaluator.supernet.parameters())
    assert (evaluator.bill.num_forwards, evaluator.bill.num_backwards) == (1, 1)


def test_pictures_that_are_not_numbers_diverge():
    evaluator = make_evaluator(scale=math.nan)
    gates = random_distribution(SMALL, 3).float().log_probs().exp()
    before = [p.clone() for p in evaluator.supernet.parameters()]
    with pytest.raises(DivergedError, match="nan"):
        evaluator.weight_step(gates, 0.1)
    with pytest.raises(DivergedError, match="nan"):
        evaluator.architecture_step(gates)
    assert all(map(torch.equal, evaluator.supernet.parameters(), before))


def test_logits_that_are_not_finite_diverge():
    options = SearchOptions(num_steps=1, architecture_learning_rate=math.inf)
    search = start(LinearEvaluator(values_of(SMALL, 0)[0]), options)
    with pytest.raises(DivergedError, match="not finite at step 0"):
        search.advance()


def test_a_step_by_hand():
    values, _ = values_of(SMALL, 5)
    evaluator = LinearEvaluator(values)
    options = SearchOptions(
        num_steps=9, architecture_learning_rate=0.25, cost_weight=0.7, learning_rate=0.8
    )
    search = start(evaluator, options)
    record = search.advance()
    logits = torch.zeros_like(search.distribution.logits, requires_grad=True)
    log_probs = logits.masked_fill(~search.distribution.mask, -torch.inf).log_softmax(-1)
    generator = torch.Generator().manual_seed(0)
    first, second = (gumbel_softmax(log_probs, 5.0, generator) for _ in range(2))
    macs = search.expected_macs(second)
    assert macs > 1.05 * SMALL.target_macs  # the cost has its say
    loss = -(second * values).sum()
    (loss + 0.7 * (macs / SMALL.target_macs - 1)).backward()
    assert [call[0] for call in evaluator.calls] == ["weights", "architecture"]
    assert torch.equal(evaluator.calls[0][1], first)
    assert torch.equal(evaluator.calls[1][1], second)
    assert evaluator.calls[0][2] == 0.8
    # One step of Adam moves every logit by the learning rate against its gradient's sign.
    clear = logits.grad.abs() > 1e-5
    assert clear.sum() > 15
    moved = search.distribution.logits.detach()
    torch.testing.assert_close(moved[clear], -0.25 * logits.grad[clear].sign(), rtol=1e-3, atol=0)
    assert record == {
        "num_samples": 2.0,
        "temperature": 5.0,
        "loss": 1.0,
        "num_invalid": 0.0,
        "mean_log_likelihood": pytest.approx(-2 * loss.item()),
    }


def test_below_the_target_there_is_no_pressure():
    space = replace(SMALL, target_macs=10**9)
    search = start(LinearEvaluator(values_of(space, 0)[0] * 0), SearchOptions(num_steps=1), space)
    search.advance()
    assert not search.distribution.logits.any()


def test_a_warm_up_trains_weights_and_leaves_the_logits_alone():
    evaluator = LinearEvaluator(values_of(SMALL, 0)[0])
    search = start(evaluator, SearchOptions(num_steps=3, warmup_steps=2, learning_rate=0.8))
    run_search(search)
    assert [call[0] for call in evaluator.calls] == [*["weights"] * 3, "architecture"]
    rates = [0.4 * (1 + math.cos(math.pi * step / 3)) for step in range(3)]
    assert [call[2] for call in evaluator.calls[:3]] == rates
    assert column(search, "num_samples") == [1, 1, 2]
    assert search.num_samples == 4
    assert column(search, "temperature") == pytest.approx([5, 2.5**0.5, 0.5])
    assert [math.isnan(v) for v in column(search, "mean_log_likelihood")] == [True, True, False]
    entropies = column(search, "entropy_nats")
    assert entropies[0] == entropies[1] == entropies[2] > search.distribution.entropy().item()


def test_it_finds_the_known_optimum():
    values, best = values_of(TINY, 0, scale=2.0)
    options = SearchOptions(num_steps=250, architecture_learning_rate=0.15, cost_weight=0.0)
    search = start(LinearEvaluator(values), options, TINY)
    run_search(search)
    assert torch.equal(search.distribution.most_probable(), best)
    assert column(search, "entropy_nats")[-1] < 2 < 26 < column(search, "entropy_nats")[0]


def test_the_cost_holds_back_an_objective_that_rewards_macs():
    space = replace(SMALL, target_macs=9_000)
    values = torch.zeros(2, 5, 3)
    values[:, : KERNEL + 1] = torch.arange(3.0)  # the last expansion, width and kernel are best
    evaluator = LinearEvaluator(values)
    expected = {}
    for cost_weight in (0.0, 100.0):
        options = SearchOptions(
            num_steps=50, architecture_learning_rate=0.2, cost_weight=cost_weight
        )
        search = start(evaluator, options, space)
        before = search.expected_macs(search.distribution.log_probs().exp()).item()
        run_search(search)
        expected[cost_weight] = column(search, "expected_macs")[-1]
    assert 1.5 * space.target_macs < before < expected[0.0]
    assert expected[100.0] < 1.1 * space.target_macs


def test_training_lowers_the_loss():
    evaluator = make_evaluator(fixed=True)
    gates = FactorizedDistribution(ChoiceLayout.of(SMALL)).log_probs().exp()
    losses = [evaluator.weight_step(gates, 0.01) for _ in range(25)]
    assert losses[-1] < 0.2 * losses[0]


def test_it_finds_the_types_whose_weights_were_trained():
    # Only one architecture is trained, and its pictures are those that the gates are shown.
    evaluator = make_evaluator(fixed=True)
    evaluator._iterators[0] = evaluator._iterators[1]
    planted = torch.tensor([[[1, 1, 1, 1, 0], [0, 1, 1, 0, 1]]])
    gates = F.one_hot(planted[0], 3).float()
    for _ in range(30):
        evaluator.weight_step(gates, 0.03)
    options = SearchOptions(
        num_steps=40, architecture_learning_rate=0.1, cost_weight=0.0, learning_rate=0.0
    )
    search = start(evaluator, options)
    run_search(search)
    # Types have weights of their own. Widths share theirs, so that others are about as good.
    chosen = search.distribution.marginals()[:, KERNEL:].gather(-1, planted[0, :, KERNEL:, None])
    assert chosen.min() > 0.65
    likelihoods = column(search, "mean_log_likelihood")
    assert sum(likelihoods[-10:]) > sum(likelihoods[:10]) + 4
    assert evaluator.bill.num_backwards == 30 + 2 * 40


@pytest.mark.parametrize(("space", "num_steps"), [(SMALL, 8), (TINY, 3)])
def test_a_search_that_stopped_goes_on_bit_for_bit(space, num_steps):
    options = SearchOptions(
        num_steps=num_steps, warmup_steps=1, snapshot_steps=2, architecture_learning_rate=0.1
    )
    whole = start(make_evaluator(space, weight_decay=1e-4, max_grad_norm=5.0), options, space)
    saved = {}

    def save(record):
        if record["step"] == num_steps // 2 + 1:
            saved.update(
                through_storage({"search": whole.state(), "evaluator": whole.evaluator.state()})
            )

    run_search(whole, on_step=save)
    # Another process, with another seed and other weights.
    evaluator = make_evaluator(space, seed=5, weight_decay=1e-4, max_grad_norm=5.0)
    resumed = start(evaluator, options, space, seed=9)
    resumed.load_state(saved["search"])
    evaluator.load_state(saved["evaluator"])
    assert 0 < resumed.step < num_steps
    run_search(resumed)
    assert resumed.distribution.logits.any()
    assert torch.equal(resumed.distribution.logits, whole.distribution.logits)
    # NaN is not itself: compare as written.
    assert repr(resumed.history) == repr(whole.history)
    assert (resumed.step, resumed.num_samples) == (whole.step, whole.num_samples)
    assert torch.equal(torch.stack(resumed.snapshots), torch.stack(whole.snapshots))
    ours, theirs = evaluator.supernet.state_dict(), whole.evaluator.supernet.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert evaluator.bill == whole.evaluator.bill
    assert evaluator.bill.num_backwards == 2 * num_steps - 1
