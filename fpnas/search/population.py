"""Strategies that compare single architectures: random search and evolution.

They search in two phases. First the supernet's weights are trained on architectures that are drawn
uniformly; then architectures are scored with these weights, and nothing is trained. Batch
normalization is recalibrated for every architecture that is scored.

Tensor shapes: A architectures, G block groups, M variables, B pictures.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fpnas.architecture import Architecture, architecture_at
from fpnas.cost import CostModel, architecture_cost
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.errors import DivergedError, InputError
from fpnas.networks.network import recalibrate_batch_norm
from fpnas.search.decode import most_probable_within
from fpnas.search.engine import Path
from fpnas.search.evaluator import Batch, Evaluator, SupernetEvaluator
from fpnas.search.loop import AbstractSearch
from fpnas.search.options import SearchOptions
from fpnas.search.population_options import PopulationOptions
from fpnas.search.probabilistic import learning_rate_at
from fpnas.training.evaluation import evaluate

_TRIAL_DRAWS = 20_000
_LEAST_FIT_FRACTION = 1e-3
_ROUNDS = 20
_NEVER = -1e4  # a logit whose probability is 0 in float32, but that is finite


class UniformTraining(AbstractSearch):
    """Trains the shared weights on uniformly drawn architectures; the distribution stays uniform.

    Args:
        evaluator: Trains the weights.
        cost_model: Of the space.
        options: ``warmup_samples`` architectures are drawn in each of ``num_steps`` steps.
        seed: Of the draws.
    """

    def __init__(
        self, evaluator: Evaluator, cost_model: CostModel, options: SearchOptions, seed: int
    ) -> None:
        layout = ChoiceLayout.of(cost_model.space)
        super().__init__(FactorizedDistribution(layout), cost_model, options, seed)
        self.evaluator = evaluator

    def advance(self) -> dict[str, float]:
        """Draws architectures and trains the weights."""
        choices = self.distribution.sample(self.options.warmup_samples, self.generator)
        trained = self.evaluator.train_step(choices, learning_rate_at(self.step, self.options))
        self.num_samples += len(choices)
        over_budget = self.cost_model.macs(choices) > self.cost_model.space.target_macs
        return {
            "num_samples": float(len(choices)),
            "loss": trained.loss,
            "num_invalid": float((~torch.isfinite(trained.log_likelihoods)).sum()),
            "over_budget_rate": float(over_budget.double().mean()),
        }


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
        evaluator.ranks.check_equal(choices)
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


class AbstractPopulationSearch(AbstractSearch):
    """Scores architectures within the budget; the distribution is certain of the best so far.

    Before the first step the distribution is uniform. In the history, ``loss`` is the mean
    cross-entropy of a step's architectures in nats, and the columns that belong to a learned
    distribution are NaN.

    Args:
        scorer: Of architectures; the same for the same architecture.
        cost_model: Of the space, whose ``target_macs`` is the budget.
        options: ``num_steps`` and ``snapshot_steps`` count; nothing is trained.
        population_options: How to search.
        seed: Of the draws.

    Attributes:
        scored: Every architecture scored so far, in this order, int64 (A, G, M).
        scores: Theirs, float64 (A, 2); see :class:`Scorer`.

    Raises:
        InputError: No architecture of the space is within the budget, or the search would stop at
            an entropy, which here is 0 after one step.
    """

    def __init__(
        self,
        scorer: Scorer,
        cost_model: CostModel,
        options: SearchOptions,
        population_options: PopulationOptions,
        seed: int,
    ) -> None:
        if options.converged_entropy_nats > 0:
            raise InputError(
                "converged_entropy_nats",
                options.converged_entropy_nats,
                "would stop random search and evolution after one step",
                legal="0",
                fix="leave it out",
            )
        layout = ChoiceLayout.of(cost_model.space)
        super().__init__(FactorizedDistribution(layout), cost_model, options, seed)
        self.scorer, self.evaluator = scorer, scorer.evaluator
        self.population_options = population_options
        self.sampler = BudgetSampler(cost_model)
        self.scored = layout.sizes.new_empty(0, *layout.sizes.shape)
        self.scores = torch.empty(0, 2, dtype=torch.float64)

    @abstractmethod
    def candidates(self) -> Tensor:
        """The architectures to score in this step, within the budget, int64 (A, G, M)."""

    def advance(self) -> dict[str, float]:
        """Scores this step's architectures, and puts all mass on the best of all so far."""
        choices = self.candidates()
        assert self.sampler.fits(choices).all()
        scores = self.scorer.scores(choices)
        valid = torch.isfinite(scores).all(dim=1)
        self.scored = torch.cat([self.scored, choices])
        self.scores = torch.cat([self.scores, scores])
        self.num_samples += len(choices)
        best = best_first(self.scores)[:1]
        if not len(best):
            raise DivergedError(
                f"none of {len(scores)} architectures has a score: {scores.tolist()}"
            )
        with torch.no_grad():
            self.distribution.logits.fill_(_NEVER)
            self.distribution.logits.scatter_(-1, self.scored[best[0]].unsqueeze(-1), 0.0)
        return {
            "num_samples": float(len(choices)),
            "loss": -float(scores[valid, 1].mean()),
            "num_invalid": float((~valid).sum()),
            "over_budget_rate": 0.0,
        }

    def state(self) -> dict[str, Any]:
        """As a tree of tensors and scalars."""
        return {**super().state(), "scored": self.scored, "scores": self.scores}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state`."""
        super().load_state(state)
        self.scored, self.scores = state["scored"], state["scores"]


class RandomSearch(AbstractPopulationSearch):
    """Draws uniformly among the architectures within the budget."""

    def candidates(self) -> Tensor:
        """``num_candidates`` independent draws."""
        return self.sampler.sample(self.population_options.num_candidates, self.generator)


class EvolutionSearch(AbstractPopulationSearch):
    """Makes new architectures from the best ones, which stay until better ones are found.

    Source: Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling"
    (ECCV 2020): half of the candidates are mutations of one parent, half are crossovers of two,
    which take every block group as a whole from either; uniform draws fill up. Nothing is scored
    twice, so a space that is used up gives fewer candidates than asked for, and at last none.
    """

    def __init__(
        self,
        scorer: Scorer,
        cost_model: CostModel,
        options: SearchOptions,
        population_options: PopulationOptions,
        seed: int,
    ) -> None:
        super().__init__(scorer, cost_model, options, population_options, seed)
        self._seen: set[Path] = set()

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from :meth:`state`."""
        super().load_state(state)
        self._seen = {self._path(choice) for choice in self.scored}

    def candidates(self) -> Tensor:
        """The first population, or children of the best so far and what has to be filled up."""
        options = self.population_options
        if not len(self.scored):
            return self._collect(self._uniform, options.population)
        num_crossovers = options.num_candidates // 2
        crossovers = self._collect(self._crossovers, num_crossovers)
        mutations = self._collect(self._mutations, options.num_candidates - num_crossovers)
        missing = options.num_candidates - len(crossovers) - len(mutations)
        return torch.cat([crossovers, mutations, self._collect(self._uniform, missing)])

    def _collect(self, propose: Callable[[int], Tensor], num_wanted: int) -> Tensor:
        """Up to ``num_wanted`` proposals that are new and within the budget."""
        found: list[Tensor] = []
        for _ in range(_ROUNDS):
            if len(found) == num_wanted:
                break
            proposed = propose(num_wanted)
            for choice in proposed[self.sampler.fits(proposed)]:
                path = self._path(choice)
                if len(found) < num_wanted and path not in self._seen:
                    self._seen.add(path)
                    found.append(choice)
        return torch.stack(found) if found else self.scored[:0]

    def _path(self, choices: Tensor) -> Path:
        """The blocks at indices (G, M): equal for architectures that compute the same."""
        return tuple(architecture_at(self.cost_model.space, choices.tolist()).blocks())

    def _uniform(self, number: int) -> Tensor:
        return self.sampler.sample(number, self.generator)

    def _parents(self, number: int) -> Tensor:
        best = self.scored[best_first(self.scores)[: self.population_options.num_parents]]
        return best[torch.randint(len(best), (number,), generator=self.generator)]

    def _mutations(self, number: int) -> Tensor:
        parents = self._parents(number)
        redrawn = self.sampler.uniform.sample(number, self.generator)
        chance = torch.rand(parents.shape, generator=self.generator)
        return redrawn.where(chance < self.population_options.mutation_probability, parents)

    def _crossovers(self, number: int) -> Tensor:
        first, second = self._parents(number), self._parents(number)
        chance = torch.rand(*first.shape[:2], 1, generator=self.generator)
        return first.where(chance < 0.5, second)


def best_first(scores: Tensor) -> Tensor:
    """Numbers of the architectures with finite scores (A, 2), best first.

    The first column decides, then the second, then who was scored earlier.
    """
    values = scores.numpy()
    order = np.lexsort((-values[:, 1], -values[:, 0]))
    return torch.from_numpy(order[np.isfinite(values[order]).all(axis=1)])
