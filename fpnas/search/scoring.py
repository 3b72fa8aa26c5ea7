"""Scores for architectures with shared weights, and draws within a budget.

Tensor shapes: A architectures, G block groups, M variables, B pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fpnas.architecture import Architecture
from fpnas.cost import CostModel, architecture_cost
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.networks.network import recalibrate_batch_norm
from fpnas.search.decode import most_probable_within
from fpnas.search.engine import Path
from fpnas.search.evaluator import SupernetEvaluator
from fpnas.search.weights import Batch
from fpnas.training.evaluation import evaluate

_TRIAL_DRAWS = 20_000
_LEAST_FIT_FRACTION = 1e-3


class Scorer(Protocol):
    """The only thing that these strategies know about images and networks.

    Attributes:
        evaluator: Holds the shared weights.
    """

    evaluator: Any

    def scores(self, choices: Tensor) -> Tensor:
        """Scores of architectures (A, G, M), float64 (A, 2).

        The first column decides and the second breaks ties; more is better. A row that is not
        finite is worse than any other.
        """


class ArchitectureScorer:
    """Scores architectures as stand-alone networks with the shared weights.

    Scores are kept: an architecture that computes the same as one before is not run again. Make
    another scorer when the weights have changed. Layers run in float32.

    Args:
        evaluator: Its supernet is scored, on its ranks; its bill counts every pass of a batch.
        recalibration_batches: Normalized pictures (B, 3, H, W) of the weight half, for the
            statistics of batch normalization.
        scoring_batches: Normalized pictures and labels of the architecture half.
    """

    def __init__(
        self,
        evaluator: SupernetEvaluator,
        recalibration_batches: Sequence[Tensor],
        scoring_batches: Sequence[Batch],
    ) -> None:
        assert recalibration_batches
        assert scoring_batches
        self.evaluator = evaluator
        self._recalibration, self._scoring = list(recalibration_batches), list(scoring_batches)
        self._known: dict[Path, Tensor] = {}

    @torch.no_grad()
    def scores(self, choices: Tensor) -> Tensor:
        """Top-1 accuracy, and the mean log-likelihood a picture in nats: float64 (A, 2)."""
        evaluator, classifier = self.evaluator, self.evaluator.supernet.classifier
        evaluator.ranks.check_equal(choices, "architectures")
        architectures = [evaluator.supernet.architecture(choice) for choice in choices]
        paths = [tuple(architecture.blocks()) for architecture in architectures]
        new = {
            path: architecture
            for path, architecture in zip(paths, architectures, strict=True)
            if path not in self._known
        }
        costs = [architecture_cost(one, classifier.out_features)[0] for one in new.values()]
        values = torch.zeros(len(new), 2, dtype=torch.float64, device=classifier.weight.device)
        for number in evaluator.ranks.share(costs):
            values[number] = self._score(list(new.values())[number])
        scores = evaluator.ranks.sum(values).cpu()
        self._known.update(zip(new, scores, strict=True))
        evaluator.bill.num_forwards += len(new) * (len(self._recalibration) + len(self._scoring))
        return torch.stack([self._known[path] for path in paths]) if paths else scores

    def _score(self, architecture: Architecture) -> Tensor:
        supernet = self.evaluator.supernet
        network = supernet.extract(architecture).to(supernet.classifier.weight.device)
        recalibrate_batch_norm(network, self._recalibration)
        evaluation = evaluate(network, self._scoring)
        return torch.tensor([evaluation.top1, -evaluation.loss], dtype=torch.float64)


class BudgetSampler:
    """Draws architectures uniformly among those within the budget.

    Uniform draws over budget are rejected. Where fewer than 1 in 1000 fit, that would take too
    long: each draw is then the most probable architecture within the budget under random logits
    (standard Gumbel noise on every choice of every variable). All fitting architectures can be
    drawn so, but no longer equally often (perturb-and-MAP; Papandreou and Yuille, ICCV 2011).

    Args:
        cost_model: Of the space, whose ``target_macs`` is the budget.

    Attributes:
        uniform: Over the whole space.
        fit_fraction: Share of it within the budget, of 20,000 draws under a fixed seed.

    Raises:
        InputError: No architecture of the space is within the budget.
    """

    def __init__(self, cost_model: CostModel) -> None:
        self._cost_model = cost_model
        self.uniform = FactorizedDistribution(ChoiceLayout.of(cost_model.space))
        trial = self.uniform.sample(_TRIAL_DRAWS, torch.Generator().manual_seed(0))
        self.fit_fraction = float(self.fits(trial).double().mean())
        if self.fit_fraction < _LEAST_FIT_FRACTION:
            most_probable_within(self.uniform, cost_model, cost_model.space.target_macs)

    def fits(self, choices: Tensor) -> Tensor:
        """Whether architectures (A, G, M) are within the budget, (A,)."""
        return self._cost_model.macs(choices) <= self._cost_model.space.target_macs

    def sample(self, num_architectures: int, generator: torch.Generator) -> Tensor:
        """Draws architectures, int64 (A, G, M)."""
        if self.fit_fraction < _LEAST_FIT_FRACTION:
            return torch.stack([self._perturbed(generator) for _ in range(num_architectures)])
        drawn = self.uniform.layout.sizes.new_empty(0, *self.uniform.layout.sizes.shape)
        while len(drawn) < num_architectures:
            missing = num_architectures - len(drawn)
            more = self.uniform.sample(math.ceil(1.2 * missing / self.fit_fraction), generator)
            drawn = torch.cat([drawn, more[self.fits(more)]])
        return drawn[:num_architectures]

    def _perturbed(self, generator: torch.Generator) -> Tensor:
        random = FactorizedDistribution(self.uniform.layout)
        exponential = torch.empty_like(random.logits).exponential_(generator=generator)
        with torch.no_grad():
            random.logits.copy_(-exponential.clamp(min=1e-30).log())
        space = self._cost_model.space
        return most_probable_within(random, self._cost_model, space.target_macs).choices


def best_first(scores: Tensor) -> Tensor:
    """Numbers of the architectures with finite scores (A, 2), best first.

    The first column decides, then the second, then who was scored earlier.
    """
    values = scores.numpy()
    order = np.lexsort((-values[:, 1], -values[:, 0]))
    return torch.from_numpy(order[np.isfinite(values[order]).all(axis=1)])
