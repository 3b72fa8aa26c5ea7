"""Strategies that compare single architectures: random search and evolution.

They search in two phases. First the supernet's weights are trained on architectures that are drawn
uniformly; then architectures are scored with these weights, and nothing is trained. Batch
normalization is recalibrated for every architecture that is scored.

Tensor shapes: A architectures, G block groups, M variables.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fpnas.architecture import architecture_at
from fpnas.cost import CostModel
from fpnas.distribution import ChoiceLayout, FactorizedDistribution
from fpnas.errors import DivergedError, InputError
from fpnas.search.engine import Path
from fpnas.search.evaluator import Evaluator
from fpnas.search.loop import AbstractSearch, num_invalid
from fpnas.search.options import SearchOptions
from fpnas.search.population_options import PopulationOptions
from fpnas.search.probabilistic import learning_rate_at
from fpnas.search.scoring import BudgetSampler, Scorer, best_first

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
            "num_invalid": num_invalid(trained.log_likelihoods),
            "over_budget_rate": float(over_budget.double().mean()),
        }


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

    def candidates(self) -> Tensor:
        """The first population, or children of the best so far and what has to be filled up."""
        options = self.population_options
        seen = {self._path(choice) for choice in self.scored}
        if not len(self.scored):
            return self._collect(self._uniform, options.population, seen)
        num_crossovers = options.num_candidates // 2
        crossovers = self._collect(self._crossovers, num_crossovers, seen)
        mutations = self._collect(self._mutations, options.num_candidates - num_crossovers, seen)
        missing = options.num_candidates - len(crossovers) - len(mutations)
        return torch.cat([crossovers, mutations, self._collect(self._uniform, missing, seen)])

    def _collect(
        self, propose: Callable[[int], Tensor], num_wanted: int, seen: set[Path]
    ) -> Tensor:
        """Up to ``num_wanted`` proposals that are new and within the budget; adds to ``seen``."""
        found: list[Tensor] = []
        for _ in range(_ROUNDS):
            if len(found) == num_wanted:
                break
            proposed = propose(num_wanted)
            for choice in proposed[self.sampler.fits(proposed)]:
                path = self._path(choice)
                if len(found) < num_wanted and path not in seen:
                    seen.add(path)
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
