"""Train: the decoded architecture from scratch, with labels only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fpnas.stages.training import Workbench, train, write_model
from fpnas.stages.training_config import TrainingConfig, training_ranks

if TYPE_CHECKING:
    from fpnas.stages.base import StageContext

Config = TrainingConfig


def run(context: StageContext) -> None:
    """Trains and writes the model."""
    from fpnas.training.loop import label_loss

    with training_ranks(context) as ranks:
        bench = Workbench.open(context, ranks)
        recipe = bench.config.recipe
        network = bench.network(bench.architecture, bench.config.seed)
        trainer = bench.trainer(network, recipe, label_loss(recipe))
        saved = context.restore()
        evaluation = train(context, trainer, saved=saved and saved["trainer"])
    if bench.is_first:
        write_model(context, bench, trainer, evaluation)
