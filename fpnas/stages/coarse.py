"""Coarse search: in FP-NAS, every variable has a distribution of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fpnas.stages.searching import SearchConfig, run_phase

if TYPE_CHECKING:
    from fpnas.stages.base import StageContext

Config = SearchConfig


def run(context: StageContext) -> None:
    """Searches from the uniform distribution."""
    run_phase(context, "coarse")
