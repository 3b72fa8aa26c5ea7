"""Every strategy, built from the same parts and run by the same loop."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Literal, Protocol

from torch import Tensor

from fpnas.cost import CostModel
from fpnas.distribution import (
    AbstractDistribution,
    ChoiceLayout,
    FactorizedDistribution,
    JointDistribution,
)
from fpnas.estimator import adaptive_num_samples
from fpnas.networks.masked_supernet import MaskedSupernet
from fpnas.networks.supernet import Supernet
from fpnas.parallel import Ranks
from fpnas.search.dnas import DnasSearch, MaskedEvaluator
from fpnas.search.dnas_options import DnasOptions
from fpnas.search.engine import Engine
from fpnas.search.evaluator import SupernetEvaluator
from fpnas.search.loop import AbstractSearch
from fpnas.search.options import Phase, SearchOptions, StrategyName, WeightOptions
from fpnas.search.population import EvolutionSearch, RandomSearch, UniformTraining
from fpnas.search.population_options import PopulationOptions
from fpnas.search.probabilistic import ProbabilisticSearch
from fpnas.search.scoring import ArchitectureScorer
from fpnas.search.weights import BatchSource

_KINDS = {"factorized": FactorizedDistribution, "joint": JointDistribution}
_PHASES: dict[str, dict[Phase, Literal["factorized", "joint"]]] = {
    "fpnas": {"coarse": "factorized", "fine": "joint"},
    "factorized": {"coarse": "factorized", "fine": "factorized"},
    "joint": {"coarse": "joint", "fine": "joint"},
    "parsec": {"coarse": "joint", "fine": "joint"},
}


class Pictures(Protocol):
    """Where a search gets its pictures from.

    Attributes:
        num_classes: Of the pictures.
        device: Where they are.
    """

    num_classes: int
    device: str

    def batches(self, split: Literal["weights", "alpha"]) -> BatchSource:
        """Endless augmented batches of a half."""

    def fixed(
        self, split: Literal["weights", "alpha"], num_batches: int
    ) -> list[tuple[Tensor, Tensor]]:
        """The same batches at every call, without augmentation."""


def build_search(
    strategy: StrategyName,
    phase: Phase,
    cost_model: CostModel,
    options: SearchOptions,
    *,
    pictures: Pictures,
    weights: WeightOptions,
    seed: int,
    dnas: DnasOptions | None = None,
    population: PopulationOptions | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    previous: AbstractDistribution | None = None,
    ranks: Ranks | None = None,
    engine: Engine | None = None,
) -> AbstractSearch:
    """Builds one phase of a strategy.

    Shared weights are drawn from torch's global generator: seed it before. The fine phase goes on
    with the weights of the coarse one when its evaluator's state is loaded.

    Args:
        strategy: See :data:`fpnas.search.options.STRATEGIES`.
        phase: Which of its two searches.
        cost_model: Of the space.
        options: How to search.
        pictures: Both halves.
        weights: How the shared weights are trained.
        seed: Of the draws.
        dnas: More of ``dnas``.
        population: More of ``random`` and ``evolution``.
        precision: Of the layers.
        previous: The distribution that the coarse phase ended with.
        ranks: The processes that share the architectures.
        engine: How a draw is run; its threshold is taken from ``options``.
    """
    space = cost_model.space
    halves = pictures.batches("weights"), pictures.batches("alpha")
    if strategy == "dnas":
        network = MaskedSupernet(space, pictures.num_classes).to(pictures.device)
        masked = MaskedEvaluator(network, *halves, **asdict(weights))
        start = previous or FactorizedDistribution(ChoiceLayout.of(space))
        assert isinstance(start, FactorizedDistribution)
        return DnasSearch(start, masked, cost_model, options, dnas or DnasOptions(), seed)
    evaluator = SupernetEvaluator(
        Supernet(space, pictures.num_classes).to(pictures.device),
        *halves,
        temperature=options.temperature,
        ess_fraction=options.ess_fraction,
        **asdict(weights),
        engine=replace(engine or Engine(), negligible_weight=options.negligible_weight),
        precision=precision,
        ranks=ranks,
    )
    if strategy in ("random", "evolution"):
        if phase == "coarse":
            return UniformTraining(evaluator, cost_model, options, seed)
        chosen = population or PopulationOptions()
        scorer = ArchitectureScorer(
            evaluator,
            [images for images, _ in pictures.fixed("weights", chosen.recalibration_batches)],
            pictures.fixed("alpha", chosen.scoring_batches),
        )
        kind = RandomSearch if strategy == "random" else EvolutionSearch
        return kind(scorer, cost_model, options, chosen, seed)
    distribution = starting_distribution(strategy, phase, cost_model, options, previous)
    return ProbabilisticSearch(
        distribution, evaluator, cost_model, _with_num_samples(strategy, cost_model, options), seed
    )


def starting_distribution(
    strategy: StrategyName,
    phase: Phase,
    cost_model: CostModel,
    options: SearchOptions,
    previous: AbstractDistribution | None,
) -> AbstractDistribution:
    """Uniform, or what the coarse phase ended with, converted when the fine phase is joint."""
    kind = options.distribution or _PHASES[strategy][phase]
    if previous is None:
        return _KINDS[kind](ChoiceLayout.of(cost_model.space))
    if previous.kind == kind:
        return previous
    assert isinstance(previous, FactorizedDistribution), "a joint distribution stays joint"
    return previous.to_joint()


def _with_num_samples(
    strategy: StrategyName, cost_model: CostModel, options: SearchOptions
) -> SearchOptions:
    """PARSEC draws as many architectures in every step as FP-NAS does in its first."""
    if strategy != "parsec" or options.num_samples is not None:
        return options
    entropy = cost_model.space.uniform_entropy_nats
    number = adaptive_num_samples(entropy, options.sampling_rate, options.min_samples)
    return replace(options, num_samples=number)
