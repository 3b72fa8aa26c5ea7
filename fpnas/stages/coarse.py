"""Coarse search: every variable has a distribution of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fpnas.stages.searching import SearchConfig, build_evaluator, search

if TYPE_CHECKING:
    from fpnas.stages.base import StageContext

Config = SearchConfig


def run(context: StageContext) -> None:
    """Searches from the uniform factorized distribution."""
    from fpnas.distribution import ChoiceLayout, FactorizedDistribution
    from fpnas.search.loop import SearchState

    config: SearchConfig = context.config
    space = config.space.open()
    distribution = FactorizedDistribution(ChoiceLayout.of(space))
    state = SearchState.start(distribution, config.search, config.seed)
    search(context, "factorized", space, state, build_evaluator(context, space), first_step=0)
