"""Every strategy, both phases, on a supernet of the tiny space."""

import pytest
import torch

from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, FactorizedDistribution, JointDistribution
from fpnas.search.decode import most_probable_within
from fpnas.search.loop import run_search
from fpnas.search.options import STRATEGIES, SearchOptions, WeightOptions
from fpnas.search.population_options import PopulationOptions
from fpnas.search.strategies import build_search, starting_distribution
from fpnas.space import load_space

from .memory import MemoryBatches

CLASSES = 3
SPACE = load_space("tiny").open(input_size=8, target_macs=900_000)
COSTS = CostModel(SPACE, CLASSES)
POPULATION = PopulationOptions(
    num_candidates=3, population=4, num_parents=2, recalibration_batches=1, scoring_batches=1
)


class MemoryPictures:
    num_classes, device = CLASSES, "cpu"

    def batches(self, split):
        return MemoryBatches(1 + (split == "alpha"))

    def fixed(self, split, num_batches):
        return [self.batches(split).batch(number) for number in range(num_batches)]


def search_of(strategy, phase, previous=None, **options):
    torch.manual_seed(0)
    return build_search(
        strategy,
        phase,
        COSTS,
        SearchOptions(**{"num_steps": 3, "architecture_learning_rate": 0.1, **options}),
        pictures=MemoryPictures(),
        weights=WeightOptions(),
        population=POPULATION,
        seed=0,
        previous=previous,
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_both_phases_end_in_an_architecture_within_the_budget_and_a_bill(strategy):
    coarse = search_of(strategy, "coarse")
    run_search(coarse)
    before = coarse.distribution.entropy().item()
    fine = search_of(strategy, "fine", coarse.distribution)
    if strategy not in ("random", "evolution"):
        assert fine.distribution.entropy().item() == pytest.approx(before, abs=1e-3)
    fine.evaluator.load_state(coarse.evaluator.state())
    run_search(fine)
    decoded = most_probable_within(fine.distribution, COSTS, SPACE.target_macs)
    assert 0 < decoded.macs <= SPACE.target_macs
    for search in (coarse, fine):
        assert search.num_samples > 0
        assert len(search.history) == 3
    bill = fine.evaluator.bill
    assert bill.num_forwards > coarse.num_samples // 2
    assert 0 < bill.num_backwards <= bill.num_forwards


def test_what_the_names_mean():
    kinds = {
        name: (
            search_of(name, "coarse").distribution.kind,
            search_of(name, "fine").distribution.kind,
        )
        for name in STRATEGIES
    }
    assert kinds == {
        "fpnas": ("factorized", "joint"),
        "factorized": ("factorized", "factorized"),
        "joint": ("joint", "joint"),
        "parsec": ("joint", "joint"),
        "dnas": ("factorized", "factorized"),
        "random": ("factorized", "factorized"),
        "evolution": ("factorized", "factorized"),
    }


def test_parsec_draws_what_fpnas_draws_first():
    for rate, expected in ((0.25, 7), (0.5, 13)):
        assert search_of("parsec", "coarse", sampling_rate=rate).options.num_samples == expected
    assert search_of("parsec", "coarse", num_samples=4).options.num_samples == 4
    assert search_of("fpnas", "coarse").options.num_samples is None


def test_the_fine_phase_converts_without_loss():
    coarse = FactorizedDistribution(ChoiceLayout.of(SPACE))
    coarse.logits.data.normal_(generator=torch.Generator().manual_seed(0))
    fine = starting_distribution("fpnas", "fine", COSTS, SearchOptions(num_steps=1), coarse)
    assert isinstance(fine, JointDistribution)
    choices = coarse.sample(5, torch.Generator().manual_seed(1))
    torch.testing.assert_close(fine.log_prob(choices), coarse.log_prob(choices))
    same = starting_distribution("factorized", "fine", COSTS, SearchOptions(num_steps=1), coarse)
    assert same is coarse
