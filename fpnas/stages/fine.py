"""Fine search: in FP-NAS, the coarse distribution, converted without loss, is refined jointly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fpnas.stages.searching import SearchConfig, load_search, run_phase

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
    coarse = load_search(context.inputs["search_state"])
    run_phase(context, "fine", coarse, keep_optimizer=context.config.keep_optimizer)
