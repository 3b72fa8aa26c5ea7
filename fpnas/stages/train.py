"""Train: the decoded architecture from scratch, with labels only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from fpnas.stages.config import Runtime
from fpnas.stages.training import TrainingConfig, Workbench, train, write_model

if TYPE_CHECKING:
    from fpnas.stages.base import StageContext


class TrainRuntime(Runtime):
    """How the training is carried out.

    Attributes:
        num_processes: Processes that share every step. A run may go on with another number of
            them: the steps take the same pictures. Batch normalization sees a process's pictures
            only, and sums are rounded otherwise.
    """

    num_processes: int = Field(default=1, ge=1)


class Config(TrainingConfig):
    """A training run that may be shared by several processes."""

    runtime: TrainRuntime = TrainRuntime()


def run(context: StageContext) -> None:
    """Trains and writes the model."""
    from fpnas.stages.batches import device_of
    from fpnas.stages.ranks import opened, rank_device
    from fpnas.training.loop import label_loss

    runtime: TrainRuntime = context.config.runtime
    device = rank_device(device_of(runtime.device))
    with opened(context, runtime.num_processes, device) as ranks:
        bench = Workbench.open(context, ranks)
        recipe = bench.config.recipe
        network = bench.network(bench.architecture, bench.config.seed)
        trainer = bench.trainer(network, recipe, label_loss(recipe))
        saved = context.restore()
        evaluation = train(context, trainer, saved=saved and saved["trainer"])
    if bench.is_first:
        write_model(context, bench, trainer, evaluation)
