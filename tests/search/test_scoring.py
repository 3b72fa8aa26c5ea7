"""Scores by hand, draws within a budget, ranks that share what is scored."""

import math

import torch

from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.networks.network import recalibrate_batch_norm
from fpnas.networks.supernet import Supernet
from fpnas.parallel import Ranks
from fpnas.search.evaluator import SupernetEvaluator
from fpnas.search.scoring import ArchitectureScorer, BudgetSampler, best_first
from fpnas.space import ACTIVATION, KERNEL, load_space
from fpnas.training.evaluation import evaluate

from .memory import MemoryBatches

TINY = load_space("tiny").open()
COSTS = CostModel(TINY, 10)
CLASSES, BATCH = 3, 4
SMALL = load_space("tiny").open(input_size=8, target_macs=2_000_000)
BATCHES = MemoryBatches(0, classes=CLASSES, batch=BATCH)
PICTURES = [BATCHES.batch(number)[0] for number in (1, 2, 3)]
LABELLED = [BATCHES.batch(number) for number in (4, 5)]


def make_evaluator():
    torch.manual_seed(0)
    return SupernetEvaluator(
        Supernet(SMALL, CLASSES),
        MemoryBatches(1),
        MemoryBatches(2),
        temperature="ess",
        ess_fraction=0.5,
        momentum=0.9,
        weight_decay=0.0,
        max_grad_norm=5.0,
    )


def points(number):
    uniform = FactorizedDistribution(ChoiceLayout.of(SMALL))
    return uniform.sample(number, torch.Generator().manual_seed(0))


def test_draws_within_the_budget_are_the_uniform_ones_that_fit():
    sampler = BudgetSampler(COSTS)
    drawn = sampler.sample(200, torch.Generator().manual_seed(1))
    stream = sampler.uniform.sample(
        math.ceil(1.2 * 200 / sampler.fit_fraction), torch.Generator().manual_seed(1)
    )
    fitting = stream[COSTS.macs(stream) <= TINY.target_macs]
    assert 0.3 < sampler.fit_fraction < 0.999  # the budget means something
    assert drawn.shape == (200, 5, 5)
    assert torch.equal(drawn, fitting[:200])


def test_ties_go_to_the_second_column_and_what_has_no_score_is_last():
    scores = torch.tensor(
        [[0.5, -2.0], [0.5, -1.0], [0.9, math.nan], [0.5, -1.0], [0.6, -9.0], [0.0, -math.inf]],
        dtype=torch.float64,
    )
    assert best_first(scores).tolist() == [4, 1, 3, 0]


def test_scores_by_hand():
    evaluator = make_evaluator()
    before = [parameter.clone() for parameter in evaluator.supernet.parameters()]
    scores = ArchitectureScorer(evaluator, PICTURES, LABELLED).scores(points(3))
    for score, choices in zip(scores, points(3), strict=True):
        network = evaluator.supernet.extract(evaluator.supernet.architecture(choices))
        recalibrate_batch_norm(network, PICTURES)
        expected = evaluate(network, LABELLED)
        assert score.tolist() == [expected.top1, -expected.loss]
        # In evaluation mode a picture's logits do not depend on the others.
        network.eval()
        with torch.no_grad():
            logits = torch.cat([network(image[None]) for image in LABELLED[0][0]])
            together = network(LABELLED[0][0])
        torch.testing.assert_close(logits, together, rtol=1e-4, atol=1e-4)
    assert scores.dtype == torch.float64
    assert len(scores.unique(dim=0)) == 3
    assert all(map(torch.equal, evaluator.supernet.parameters(), before))


def test_what_computes_the_same_is_run_once():
    evaluator = make_evaluator()
    scorer = ArchitectureScorer(evaluator, PICTURES, LABELLED)
    same = points(1).repeat(3, 1, 1)
    same[:, 1, KERNEL] = 0
    same[1, 1, ACTIVATION] = 1 - same[0, 1, ACTIVATION]
    assert not torch.equal(same[0], same[1])
    first = scorer.scores(same)
    assert evaluator.bill.num_forwards == 3 + 2
    assert torch.equal(first, first[:1].repeat(3, 1))
    other = same[:1].clone()
    other[:, 1, KERNEL] = 1
    again = scorer.scores(torch.cat([other, same]))
    assert evaluator.bill.num_forwards == 2 * (3 + 2)
    assert torch.equal(again[1:], first)
    assert not torch.equal(again[0], first[0])
    assert scorer.scores(same[:0]).shape == (0, 2)


def test_the_bill_is_the_evaluators_after_it_was_loaded():
    evaluator = make_evaluator()
    evaluator.train_step(points(2), 0.1)
    trained = evaluator.state()
    other = make_evaluator()
    scorer = ArchitectureScorer(other, PICTURES, LABELLED)  # made before, as the stages do
    other.load_state(trained)
    paid = other.bill.num_forwards
    scores = scorer.scores(points(2))
    assert other.bill.num_forwards == paid + 2 * (3 + 2)
    assert torch.equal(scores, ArchitectureScorer(evaluator, PICTURES, LABELLED).scores(points(2)))


def test_ranks_share_what_is_scored():
    class Share(Ranks):
        def sum(self, values):
            return values  # without the other ranks' part

        def check_equal(self, values, _what):
            assert torch.equal(values, points(3))

    whole = ArchitectureScorer(make_evaluator(), PICTURES, LABELLED).scores(points(3))
    parts = []
    for rank in range(2):
        evaluator = make_evaluator()
        evaluator.ranks = Share(rank, 2)
        parts.append(ArchitectureScorer(evaluator, PICTURES, LABELLED).scores(points(3)))
        assert evaluator.bill.num_forwards == 3 * (3 + 2)  # the bill is that of all ranks
    assert torch.equal(parts[0] + parts[1], whole)
    assert sorted(int((part[:, 1] != 0).sum()) for part in parts) == [1, 2]
