"""Fine search: the factorized distribution, converted without loss, is refined jointly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fpnas.stages.searching import (
    SearchConfig,
    build_evaluator,
    load_evaluator,
    load_search,
    search,
)

if TYPE_CHECKING:
    from fpnas.stages.base import StageContext


class Config(SearchConfig):
    """A fine search.

    Attributes:
        keep_optimizer: Go on with the momentum of the shared weights at the switch. The
            architecture parameters always get a new optimiser, since their number changes. The
            paper says neither.
    """

    keep_optimizer: bool = True


def run(context: StageContext) -> None:
    """Searches from where the coarse search ended."""
    from fpnas.distribution import FactorizedDistribution
    from fpnas.search.loop import SearchState

    config: Config = context.config
    coarse = load_search(context.inputs["search_state"])
    assert isinstance(coarse.distribution, FactorizedDistribution)
    evaluator = build_evaluator(context, coarse.space)
    load_evaluator(context.inputs["search_state"], evaluator)
    if not config.keep_optimizer:
        evaluator.optimizer.state.clear()
    # Another seed, so that the draws of the coarse search do not come again.
    state = SearchState.start(coarse.distribution.to_joint(), config.search, config.seed + 1)
    search(context, "joint", coarse.space, state, evaluator, coarse.first_step + coarse.num_steps)
