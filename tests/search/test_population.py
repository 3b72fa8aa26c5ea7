"""Random search and evolution: known optima, the budget, scores by hand, resumption."""

import json
import math

import pytest
import torch

from fpnas.architecture import architecture_at
from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.errors import DivergedError, InputError
from fpnas.search.decode import most_probable_within
from fpnas.search.evaluator import TableEvaluator
from fpnas.search.loop import HISTORY_COLUMNS, run_search
from fpnas.search.options import SearchOptions
from fpnas.search.population import EvolutionSearch, RandomSearch, UniformTraining
from fpnas.search.population_options import PopulationOptions
from fpnas.search.scoring import ArchitectureScorer, BudgetSampler, best_first
from fpnas.space import ACTIVATION, KERNEL, load_space, parse_space
from fpnas.state import pack, unpack

from .test_scoring import BATCH, LABELLED, PICTURES, make_evaluator

TINY = load_space("tiny").open()
COSTS = CostModel(TINY, 10)
CLASSES, BATCH = 3, 4
SMALL = load_space("tiny").open(input_size=8, target_macs=2_000_000)


def blocks(space, choices):
    return tuple(architecture_at(space, choices.tolist()).blocks())


class TableScorer:
    """A sum of one random value for every choice: the optimum is known, apart from the budget."""

    def __init__(self, space=TINY, seed=0):
        self.evaluator = TableEvaluator(lambda choices: choices.double().sum(dim=(1, 2)))
        sizes = ChoiceLayout.of(space).sizes
        generator = torch.Generator().manual_seed(seed)
        shape = (*sizes.shape, int(sizes.max()))
        self.values = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.space, self.calls = space, []

    def value(self, choices):
        table = self.values.expand(len(choices), -1, -1, -1)
        return table.gather(-1, choices.unsqueeze(-1)).squeeze(-1).sum(dim=(1, 2))

    def scores(self, choices):
        self.calls.append(choices)
        return torch.stack([self.value(choices), torch.zeros(len(choices))], dim=1)

    @property
    def scored(self):
        return torch.cat(self.calls)


def start(kind, scorer, *, num_steps=1, seed=0, costs=COSTS, **population):
    options = SearchOptions(num_steps=num_steps, snapshot_steps=3)
    return kind(scorer, costs, options, PopulationOptions(**population), seed)


def column(search, name):
    return [row[HISTORY_COLUMNS.index(name)] for row in search.history]


def through_storage(tree):
    tensors, structure = pack(tree)
    tensors = {path: tensor.clone() for path, tensor in tensors.items()}
    return unpack(tensors, json.loads(json.dumps(structure)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_candidates", 0),
        ("population", 0),
        ("num_parents", 0),
        ("num_parents", 51),
        ("mutation_probability", 0.0),
        ("mutation_probability", 1.1),
        ("mutation_probability", math.nan),
        ("recalibration_batches", 0),
        ("scoring_batches", 0),
    ],
)
def test_values_outside_their_range_are_refused_by_name(field, value):
    with pytest.raises(InputError) as caught:
        PopulationOptions(**{field: value})
    assert caught.value.field == field
    assert caught.value.fix


def test_the_ends_of_the_ranges_are_allowed():
    PopulationOptions(num_candidates=1, population=3, num_parents=3, mutation_probability=1.0)


def test_uniform_training_trains_and_stays_uniform():
    calls = []

    class Recording(TableEvaluator):
        def train_step(self, choices, learning_rate):
            calls.append((choices, learning_rate))
            return super().train_step(choices, learning_rate)

    def values(choices):
        return choices[:, 0, ACTIVATION].double().where(choices[:, 0, KERNEL] > 0, torch.nan)

    options = SearchOptions(num_steps=4, warmup_samples=5, learning_rate=0.8)
    search = UniformTraining(Recording(values, 2), COSTS, options, seed=3)
    run_search(search)
    uniform = FactorizedDistribution(ChoiceLayout.of(TINY))
    generator = torch.Generator().manual_seed(3)
    drawn = [uniform.sample(5, generator) for _ in range(4)]
    assert all(torch.equal(ours, call[0]) for ours, call in zip(drawn, calls, strict=True))
    rates = [0.4 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert [call[1] for call in calls] == pytest.approx(rates)
    assert not search.distribution.logits.any()
    assert column(search, "num_samples") == [5] * 4
    assert search.num_samples == 20
    invalid = [float((d[:, 0, KERNEL] == 0).sum()) for d in drawn]
    assert column(search, "num_invalid") == invalid
    assert sum(invalid) > 0
    over = [(COSTS.macs(d) > TINY.target_macs).double().mean().item() for d in drawn]
    assert column(search, "over_budget_rate") == over
    assert column(search, "entropy_nats") == pytest.approx([TINY.uniform_entropy_nats] * 4)


def test_the_best_of_random_search_is_that_of_its_draws():
    scorer = TableScorer(seed=2)
    search = start(RandomSearch, scorer, num_steps=4, num_candidates=25, seed=5)
    assert search.distribution.entropy().item() == pytest.approx(TINY.uniform_entropy_nats)
    run_search(search)
    sampler, generator = BudgetSampler(COSTS), torch.Generator().manual_seed(5)
    drawn = torch.cat([sampler.sample(25, generator) for _ in range(4)])
    assert torch.equal(scorer.scored, drawn)
    assert torch.equal(search.distribution.most_probable(), drawn[scorer.value(drawn).argmax()])
    assert search.num_samples == 100


@pytest.mark.parametrize("seed", range(3))
def test_evolution_finds_better_ones_than_random_search_with_as_many_scores(seed):
    random, evolved = TableScorer(seed=seed), TableScorer(seed=seed)
    run_search(start(RandomSearch, random, num_steps=8, num_candidates=25, seed=seed))
    search = start(EvolutionSearch, evolved, num_steps=16, population=50, seed=seed)
    run_search(search)
    assert len(random.scored) == len(evolved.scored) == 200
    best, other = evolved.value(evolved.scored).max(), random.value(random.scored).max()
    spread = random.value(random.scored).std()
    assert best > other + 0.5 * spread
    assert (COSTS.macs(evolved.scored) <= TINY.target_macs).all()
    # Nothing that computes the same is scored twice.
    assert len({blocks(TINY, choices) for choices in evolved.scored}) == 200


@pytest.mark.parametrize("kind", [RandomSearch, EvolutionSearch])
def test_the_distribution_is_certain_of_the_best_within_the_budget(kind):
    scorer = TableScorer(seed=1)
    search = start(kind, scorer, num_steps=4, population=20)
    run_search(search)
    best = scorer.scored[scorer.value(scorer.scored).argmax()]
    decoded = most_probable_within(search.distribution, COSTS, TINY.target_macs)
    assert torch.equal(decoded.choices, best)
    assert decoded.is_mode
    assert decoded.macs <= TINY.target_macs
    assert decoded.log_prob == 0
    assert search.distribution.entropy() == 0
    assert column(search, "entropy_nats")[1:] == [0] * 3
    assert column(search, "most_probable_macs")[-1] == decoded.macs
    assert column(search, "over_budget_rate") == [0] * 4
    assert search.step == 4  # certainty does not stop it
    assert torch.equal(search.snapshots[-1], search.distribution.marginals())


@pytest.mark.parametrize("kind", [RandomSearch, EvolutionSearch])
def test_a_search_that_would_stop_at_once_is_refused(kind):
    options = SearchOptions(num_steps=5, converged_entropy_nats=0.1)
    with pytest.raises(InputError, match="converged_entropy_nats"):
        kind(TableScorer(), COSTS, options, PopulationOptions(), 0)


def make_uniform(scorer, **arguments):
    options = SearchOptions(num_steps=arguments["num_steps"], snapshot_steps=3)
    return UniformTraining(scorer.evaluator, COSTS, options, arguments["seed"])


@pytest.mark.parametrize("kind", [RandomSearch, EvolutionSearch, make_uniform])
def test_a_search_that_stopped_goes_on_bit_for_bit(kind):
    def make(seed, num_steps=6):
        arguments = {"num_steps": num_steps, "num_candidates": 8, "population": 20, "seed": seed}
        if kind is make_uniform:
            return make_uniform(TableScorer(), num_steps=num_steps, seed=seed)
        return start(kind, TableScorer(), **arguments)

    class Stop(Exception):
        pass

    def stop(record):
        if record["step"] == 3:
            raise Stop

    whole, stopped = make(0), make(0)
    run_search(whole)
    with pytest.raises(Stop):
        run_search(stopped, on_step=stop)
    saved = through_storage(stopped.state())
    resumed = make(9)  # another process, with another seed
    resumed.load_state(saved)
    run_search(resumed)
    tensors, structure = pack(whole.state())
    others, other_structure = pack(resumed.state())
    assert other_structure == structure
    assert all(
        torch.equal(others[name], tensors[name]) for name in tensors if "history" not in name
    )
    torch.testing.assert_close(
        others["state.history"], tensors["state.history"], rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("kind", [RandomSearch, EvolutionSearch])
def test_a_search_that_has_not_begun_can_be_stored(kind):
    fresh, other = start(kind, TableScorer(), num_steps=2), start(kind, TableScorer(), seed=3)
    other.load_state(through_storage(fresh.state()))
    assert len(other.scored) == len(other.scores) == other.step == 0
    run_search(other)
    assert len(other.scored) > 0


def test_what_has_no_score_is_counted_and_never_chosen():
    class Partly(TableScorer):
        def scores(self, choices):
            scores = super().scores(choices)
            scores[choices[:, 0, ACTIVATION] == 0, 1] = torch.nan
            return scores

    scorer = Partly()
    search = start(EvolutionSearch, scorer, num_steps=3, population=20)
    run_search(search)
    assert sum(column(search, "num_invalid")) == (scorer.scored[:, 0, ACTIVATION] == 0).sum() > 0
    assert search.distribution.most_probable()[0, ACTIVATION] == 1
    assert column(search, "loss") == [0] * 3

    class Never(TableScorer):
        def scores(self, choices):
            return super().scores(choices) * torch.nan

    with pytest.raises(DivergedError, match="none of 10"):
        run_search(start(RandomSearch, Never()))


def test_evolution_of_a_space_that_is_used_up_ends_and_has_seen_everything():
    space = parse_space(
        {
            "name": "six",
            "description": "Six different architectures at eight points.",
            "choices": {"kernel": [0, 3], "activation": ["relu", "swish"], "splits": [0]},
            "stem": {"channels": 8, "stride": 1},
            "groups": [{"expansion": 1, "channels": [8, 16, 8], "repeat": 1, "stride": 1}],
            "head": {"channels": 8},
            "models": {"only": {"input_size": 4, "target_macs": 10**9}},
        },
        "six",
    ).open()
    scorer = TableScorer(space)
    search = start(
        EvolutionSearch,
        scorer,
        num_steps=6,
        costs=CostModel(space, 3),
        num_candidates=2,
        population=3,
        num_parents=2,
    )
    run_search(search)
    assert len({blocks(space, choices) for choices in scorer.scored}) == len(scorer.scored) == 6
    assert column(search, "num_samples") == [3, 2, 1, 0, 0, 0]
    assert math.isnan(column(search, "loss")[-1])


def test_mutations_and_crossovers_come_from_the_best():
    scorer = TableScorer()
    search = start(EvolutionSearch, scorer, num_candidates=40, population=30, num_parents=2)
    run_search(search)
    parents = search.scored[best_first(search.scores)[:2]]
    children = search.candidates()
    assert len(children) == 40
    same = (children[:, None] == parents).float()
    # Half take every group from one of the two parents, half are near one of them.
    assert (same[:20].all(dim=-1).any(dim=1)).all()
    changed = 25 - same[20:].sum(dim=(2, 3)).amax(dim=1)
    assert changed.min() >= 1
    assert 1 <= changed.mean() < 4  # a tenth of 25 is redrawn, some of it as it was


def test_training_and_then_evolution_with_a_real_supernet():
    evaluator = make_evaluator()
    costs = CostModel(SMALL, CLASSES)
    coarse = UniformTraining(evaluator, costs, SearchOptions(num_steps=3), seed=0)
    run_search(coarse)
    assert all(math.isfinite(loss) for loss in column(coarse, "loss"))
    weights = [parameter.clone() for parameter in evaluator.supernet.parameters()]
    paid = evaluator.bill.num_backwards
    fine = start(
        EvolutionSearch,
        ArchitectureScorer(evaluator, PICTURES, LABELLED),
        num_steps=3,
        costs=costs,
        num_candidates=4,
        population=6,
        num_parents=3,
    )
    run_search(fine)
    assert fine.evaluator is evaluator
    assert len(fine.scored) == 6 + 4 + 4
    assert (costs.macs(fine.scored) <= SMALL.target_macs).all()
    assert fine.scores[:, 0].max() == fine.scores[best_first(fine.scores)[0], 0]
    expected = -fine.scores[-4:, 1].mean().item()
    assert column(fine, "loss")[-1] == pytest.approx(expected)
    assert evaluator.bill.num_backwards == paid
    assert all(map(torch.equal, evaluator.supernet.parameters(), weights))


def test_a_budget_that_almost_nothing_fits_is_kept():
    low, high = COSTS.range_macs()
    target_macs = low + (high - low) // 100
    tight = CostModel(load_space("tiny").open(target_macs=target_macs), 10)
    sampler = BudgetSampler(tight)
    drawn = sampler.sample(30, torch.Generator().manual_seed(0))
    assert sampler.fit_fraction < 1e-3
    assert sampler.fits(drawn).all()
    assert len(drawn.flatten(1).unique(dim=0)) > 20
    search = start(EvolutionSearch, TableScorer(), costs=tight, num_steps=3, population=12)
    run_search(search)
    assert sampler.fits(search.scored).all()
    assert len(search.scored) > 12


def test_a_budget_below_the_space_is_refused():
    low, high = COSTS.range_macs()
    nothing = CostModel(load_space("tiny").open(target_macs=low - 1), 10)
    with pytest.raises(InputError, match=f"{low} to {high}") as caught:
        start(RandomSearch, TableScorer(), costs=nothing)
    assert caught.value.field == "target_macs"
    one = CostModel(load_space("tiny").open(target_macs=low), 10)
    assert one.macs(BudgetSampler(one).sample(1, torch.Generator())).tolist() == [low]
