"""The search loop: known optima, the budget, the number of samples, resumption."""

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, FactorizedDistribution, JointDistribution
from fpnas.errors import DivergedError
from fpnas.estimator import adaptive_num_samples
from fpnas.networks.supernet import Supernet
from fpnas.search.evaluator import SupernetEvaluator, TableEvaluator
from fpnas.search.loop import HISTORY_COLUMNS, has_converged, run_search, skip_rate
from fpnas.search.options import SearchOptions
from fpnas.search.probabilistic import ProbabilisticSearch
from fpnas.space import KERNEL, load_space
from fpnas.state import pack, unpack

from .memory import MemoryBatches

TINY = load_space("tiny").open()
COSTS = CostModel(TINY, 10)


class Separable(nn.Module):
    """A sum of one random value for every choice, so that the optimum is known."""

    def __init__(self, space, seed, scale=1.0):
        super().__init__()
        layout = ChoiceLayout.of(space)
        generator = torch.Generator().manual_seed(seed)
        shape = (*layout.sizes.shape, int(layout.sizes.max()))
        self.values = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        self.mask = torch.arange(shape[-1]) < layout.sizes.unsqueeze(-1)
        self.best = self.values.masked_fill(~self.mask, -torch.inf).argmax(-1)
        uniform = self.values.masked_fill(~self.mask, 0).sum(-1) / layout.sizes
        self.mean = uniform.sum().item()

    def forward(self, choices):
        table = self.values.expand(len(choices), -1, -1, -1)
        return table.gather(-1, choices.unsqueeze(-1)).squeeze(-1).sum(dim=(1, 2))


def start(evaluator, options, space=TINY, kind=FactorizedDistribution, seed=0):
    distribution = kind(ChoiceLayout.of(space))
    return ProbabilisticSearch(distribution, evaluator, CostModel(space, 10), options, seed)


def column(state, name):
    return [row[HISTORY_COLUMNS.index(name)] for row in state.history]


def through_storage(tree):
    tensors, structure = pack(tree)
    tensors = {path: tensor.clone() for path, tensor in tensors.items()}
    return unpack(tensors, json.loads(json.dumps(structure)))


@pytest.mark.parametrize("seed", [0, 1])
def test_it_finds_the_known_optimum(seed):
    objective = Separable(TINY, seed, scale=4.0)
    options = SearchOptions(
        num_steps=200, architecture_learning_rate=0.15, cost_weight=0.0, min_samples=32
    )
    state = start(TableEvaluator(objective, 64), options)
    run_search(state)
    assert torch.equal(state.distribution.most_probable(), objective.best)
    assert column(state, "entropy_nats")[-1] < 2 < 26 < column(state, "entropy_nats")[0]
    assert state.num_samples == 200 * 32


def test_it_gets_near_the_optimum_of_a_space_of_1e35():
    space = load_space("sa_expanded").open("l1")
    objective = Separable(space, 0)
    options = SearchOptions(num_steps=200, architecture_learning_rate=0.2, cost_weight=0.0)
    state = start(TableEvaluator(objective, 64), options, space)
    run_search(state)
    found = objective(state.distribution.most_probable()[None]).item()
    best = objective(objective.best[None]).item()
    # From the mean of random architectures, nine tenths of the way; fewer than 1000 samples.
    assert space.size > 1e35
    assert (found - objective.mean) / (best - objective.mean) > 0.9
    assert state.num_samples < 1000


def test_the_fine_search_goes_on_from_the_coarse_one():
    objective = Separable(TINY, 3, scale=2.0)
    options = SearchOptions(
        num_steps=40, architecture_learning_rate=0.2, cost_weight=0.0, min_samples=16
    )
    coarse = start(TableEvaluator(objective, 64), options)
    run_search(coarse)
    joint = coarse.distribution.to_joint()
    fine = ProbabilisticSearch(joint, coarse.evaluator, COSTS, options, seed=1)
    assert joint.entropy().item() == pytest.approx(coarse.distribution.entropy().item(), abs=1e-3)
    run_search(fine)
    assert column(fine, "entropy_nats")[-1] < column(fine, "entropy_nats")[0]
    assert column(fine, "mean_log_likelihood")[-1] > column(fine, "mean_log_likelihood")[0]


@pytest.mark.parametrize("baseline", [True, False])
def test_the_cost_keeps_an_objective_that_rewards_macs_near_the_target(baseline):
    evaluator = TableEvaluator(lambda choices: COSTS.macs(choices).double() * 2e-6, 64)
    options = SearchOptions(
        num_steps=120,
        architecture_learning_rate=0.1,
        cost_weight=1.0,
        min_samples=16,
        baseline=baseline,
    )
    bounded = start(evaluator, options)
    free = start(evaluator, replace(options, cost_weight=0.0))
    run_search(bounded)
    run_search(free)
    target = TINY.target_macs
    assert column(free, "most_probable_macs")[-1] > 2 * target
    assert 0.7 * target < column(bounded, "most_probable_macs")[-1] < 1.15 * target
    assert 0.7 * target < column(bounded, "expected_macs")[-1] < 1.15 * target


@pytest.mark.parametrize("rate", [1 / 4, 1 / 8])
def test_the_number_of_samples_follows_the_entropy(rate):
    options = SearchOptions(
        num_steps=60,
        sampling_rate=rate,
        min_samples=1,
        architecture_learning_rate=0.3,
        cost_weight=0.0,
        converged_entropy_nats=0.0,
    )
    state = start(TableEvaluator(Separable(TINY, 2, scale=9.0), 64), options)
    run_search(state)
    entropies, numbers = column(state, "entropy_nats"), column(state, "num_samples")
    assert numbers == [max(1, math.floor(entropy * rate + 0.5)) for entropy in entropies]
    assert numbers[0] == adaptive_num_samples(26.4585, rate)
    assert numbers[-1] < numbers[0]
    assert state.num_samples == sum(numbers)


def test_a_warm_up_trains_weights_and_leaves_the_distribution_alone():
    calls = []

    class Recording(TableEvaluator):
        def train_step(self, choices, learning_rate):
            calls.append((len(choices), learning_rate))
            return super().train_step(choices, learning_rate)

        def log_likelihood(self, choices):
            calls.append(("likelihood", len(choices)))
            return super().log_likelihood(choices)

    options = SearchOptions(num_steps=4, warmup_steps=3, warmup_samples=5, learning_rate=0.8)
    state = start(Recording(Separable(TINY, 0), 64), options)
    moved = []
    run_search(state, on_step=lambda _: moved.append(bool(state.distribution.logits.any())))
    assert moved == [False, False, False, True]
    rates = [0.4 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert calls == [(5, rates[0]), (5, rates[1]), (5, rates[2]), (7, rates[3]), ("likelihood", 7)]
    assert state.num_samples == 3 * 5 + 7


def test_a_step_by_hand():
    # One step of Adam moves every logit by the learning rate against its gradient's sign.
    options = SearchOptions(num_steps=1, architecture_learning_rate=0.25, cost_weight=0.0)
    objective = Separable(TINY, 5)
    state = start(TableEvaluator(objective, 64), options)
    choices = FactorizedDistribution(ChoiceLayout.of(TINY)).sample(
        7, torch.Generator().manual_seed(0)
    )
    records = []
    run_search(state, on_step=records.append)
    record = records[0]
    assert record["num_samples"] == 7  # 26.46 nats / 4, rounded
    assert record["mean_log_likelihood"] == pytest.approx(objective(choices).mean().item())
    assert record["loss"] == pytest.approx(-objective(choices).mean().item() / 64)
    assert record["effective_sample_size"] == pytest.approx(3.5, rel=1e-6)
    over = (COSTS.macs(choices) > TINY.target_macs).double().mean().item()
    assert record["over_budget_rate"] == pytest.approx(over)
    weights = torch.softmax(objective(choices) / record["temperature"], 0)
    one_hot = torch.zeros(7, 5, 5, 5, dtype=torch.float64)
    one_hot.scatter_(-1, choices.unsqueeze(-1), 1.0)
    # sum_k m_k (softmax - onehot), where the m_k sum to zero.
    gradient = -((weights - 1 / 7).view(-1, 1, 1, 1) * one_hot).sum(dim=0)
    clear = gradient.abs() > 1e-5
    assert clear.sum() > 50
    moved = state.distribution.logits.detach().double()
    torch.testing.assert_close(moved[clear], -0.25 * gradient[clear].sign(), rtol=1e-3, atol=0)


GOLDEN_ENTROPIES = [
    *(26.4585018, 26.4585018, 26.4585018, 26.4496479, 26.4303379, 26.4082051),
    *(26.3766594, 26.3364849, 26.2853432, 26.2170544, 26.1384926, 26.0300846),
]


def test_golden_trace():
    options = SearchOptions(num_steps=12, architecture_learning_rate=0.3, warmup_steps=2)
    evaluator = TableEvaluator(Separable(TINY, 42), 64)
    state = start(evaluator, options, kind=JointDistribution, seed=42)
    run_search(state)
    assert column(state, "entropy_nats") == pytest.approx(GOLDEN_ENTROPIES, rel=1e-5)
    assert column(state, "expected_macs")[-1] == pytest.approx(4_243_757.4, rel=1e-5)
    assert column(state, "temperature")[-1] == pytest.approx(3.8965008, rel=1e-5)
    assert state.num_samples == 74


def supernet_evaluator(seed):
    torch.manual_seed(seed)
    return SupernetEvaluator(
        Supernet(TINY, 3),
        MemoryBatches(1),
        MemoryBatches(2),
        temperature="ess",
        ess_fraction=0.5,
        momentum=0.9,
        weight_decay=1e-4,
        max_grad_norm=5.0,
    )


@pytest.mark.parametrize("kind", [FactorizedDistribution, JointDistribution])
@pytest.mark.parametrize(
    "make", [lambda _seed: TableEvaluator(Separable(TINY, 1), 64), supernet_evaluator]
)
def test_a_search_that_stopped_goes_on_bit_for_bit(make, kind):
    options = SearchOptions(
        num_steps=8,
        warmup_steps=2,
        sampling_rate=0.1,
        snapshot_steps=3,
        architecture_learning_rate=0.1,
    )
    evaluator, first, second = make(0), make(0), make(5)
    whole = start(evaluator, options, kind=kind)
    run_search(whole)

    class Stop(Exception):
        pass

    stopped = start(first, options, kind=kind)

    def stop(record):
        if record["step"] == 4:
            raise Stop

    with pytest.raises(Stop):
        run_search(stopped, on_step=stop)
    assert len(stopped.history) == stopped.step == 4
    saved = through_storage({"search": stopped.state(), "evaluator": first.state()})
    # Another process, with another seed and other weights.
    resumed = start(second, options, kind=kind, seed=9)
    resumed.load_state(saved["search"])
    second.load_state(saved["evaluator"])
    run_search(resumed)
    assert torch.equal(resumed.distribution.logits, whole.distribution.logits)
    assert repr(resumed.history) == repr(whole.history)  # there are NaN
    assert (resumed.step, resumed.num_samples) == (whole.step, whole.num_samples)
    assert torch.equal(torch.stack(resumed.snapshots), torch.stack(whole.snapshots))
    ours, theirs = second.state().get("supernet", {}), evaluator.state().get("supernet", {})
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_search_that_has_not_begun_can_be_stored():
    options = SearchOptions(num_steps=2)
    table = TableEvaluator(Separable(TINY, 0))
    fresh, other = start(table, options), start(table, options, seed=3)
    other.load_state(through_storage(fresh.state()))
    assert (other.history, other.snapshots, other.step) == ([], [], 0)
    assert torch.equal(other.generator.get_state(), fresh.generator.get_state())


def test_snapshots_and_history():
    options = SearchOptions(num_steps=7, snapshot_steps=3)
    state = start(TableEvaluator(Separable(TINY, 0), 64), options)
    records = []
    run_search(state, on_step=records.append)
    assert len(state.snapshots) == 1 + 3  # the start, steps 3 and 6, and the end
    assert torch.equal(state.snapshots[-1], state.distribution.marginals())
    assert [set(record) for record in records] == [set(HISTORY_COLUMNS)] * 7
    assert column(state, "step") == list(range(1, 8))


def test_it_stops_when_every_group_is_sure():
    options = SearchOptions(num_steps=50, converged_entropy_nats=0.01)
    table = TableEvaluator(Separable(TINY, 0))
    state = start(table, options)
    assert not has_converged(state.distribution, options)
    state.distribution.logits.data[..., 0] = 20.0
    state.distribution.logits.data[0, KERNEL] = 0.0
    assert not has_converged(state.distribution, options)
    state.distribution.logits.data[0, KERNEL, 0] = 20.0
    assert has_converged(state.distribution, options)
    run_search(state)
    assert state.step == 0
    state.options = SearchOptions(num_steps=3, converged_entropy_nats=0.0)
    run_search(state)
    assert state.step == 3


def test_skip_rate_counts_blocks():
    distribution = FactorizedDistribution(ChoiceLayout.of(TINY))
    assert skip_rate(distribution, TINY) == pytest.approx(1 / 3)
    distribution.logits.data[2, KERNEL, 0] = 50.0  # two of the seven blocks
    assert skip_rate(distribution, TINY) == pytest.approx((2 + 5 / 3) / 7)
    assert skip_rate(distribution.to_joint(), TINY) == pytest.approx((2 + 5 / 3) / 7)


def test_logits_that_are_not_finite_diverge():
    options = SearchOptions(num_steps=1, architecture_learning_rate=math.inf)
    with pytest.raises(DivergedError, match="not finite at step 0"):
        start(TableEvaluator(Separable(TINY, 0), 64), options).advance()


def test_pictures_that_are_not_numbers_diverge():
    evaluator = supernet_evaluator(0)
    evaluator.supernet.classifier.bias.data[0] = math.nan
    options = SearchOptions(num_steps=1)
    state = start(evaluator, options)
    with pytest.raises(DivergedError, match="nan"):
        run_search(state)
    assert (state.step, state.history) == (0, [])
    assert not state.distribution.logits.any()


def test_likelihoods_that_are_not_numbers_diverge():
    options = SearchOptions(num_steps=1)
    nan = TableEvaluator(lambda choices: torch.full((len(choices),), math.nan))
    with pytest.raises(DivergedError):
        start(nan, options).advance()


def test_one_likelihood_that_is_not_a_number_has_no_weight_and_is_counted():
    def broken(choices):
        values = Separable(TINY, 0)(choices)
        return values.where(torch.arange(len(choices)) != 2, math.nan)

    options = SearchOptions(num_steps=1, cost_weight=0.0)
    state = start(TableEvaluator(broken, 64), options)
    choices = FactorizedDistribution(ChoiceLayout.of(TINY)).sample(
        7, torch.Generator().manual_seed(0)
    )
    run_search(state)
    assert column(state, "num_invalid") == [2.0]  # once on each half of the pictures
    assert math.isfinite(column(state, "mean_log_likelihood")[0])
    assert math.isfinite(column(state, "agreement")[0])
    # It lost probability: its coefficient is minus the mean weight.
    before = FactorizedDistribution(ChoiceLayout.of(TINY)).log_prob(choices)
    assert state.distribution.log_prob(choices)[2] < before[2]


def test_a_fixed_number_of_samples():
    options = SearchOptions(num_steps=5, num_samples=3, architecture_learning_rate=1.0)
    state = start(TableEvaluator(Separable(TINY, 0, scale=9.0), 64), options)
    run_search(state)
    assert column(state, "num_samples") == [3.0] * 5


def test_agreement_tells_signal_from_noise():
    generator = torch.Generator().manual_seed(0)
    objective = Separable(TINY, 0)

    def noise(choices):
        return torch.randn(len(choices), generator=generator, dtype=torch.float64)

    options = SearchOptions(num_steps=60, architecture_learning_rate=0.001)
    means = []
    for function in (noise, lambda choices: objective(choices) + noise(choices)):
        state = start(TableEvaluator(function, 64), options)
        run_search(state)
        means.append(sum(column(state, "agreement")) / 60)
    assert abs(means[0]) < 0.15 < 0.5 < means[1]
