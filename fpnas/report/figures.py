"""Every figure of the project, and how to get its bytes."""

from fpnas.report.architecture_picture import architecture_picture
from fpnas.report.heat_map import choice_heat_map
from fpnas.report.model_figures import TRAINING_COLUMNS, accuracy_cost, training_curves
from fpnas.report.published import PUBLISHED, ModelPoint
from fpnas.report.search_figures import SearchPhase, join_phases, search_curves, snapshot_steps
from fpnas.report.style import to_png_bytes, to_svg

__all__ = [
    "PUBLISHED",
    "TRAINING_COLUMNS",
    "ModelPoint",
    "SearchPhase",
    "accuracy_cost",
    "architecture_picture",
    "choice_heat_map",
    "join_phases",
    "search_curves",
    "snapshot_steps",
    "to_png_bytes",
    "to_svg",
    "training_curves",
]
