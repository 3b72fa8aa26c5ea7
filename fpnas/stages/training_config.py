"""The configuration of the stages that train, and the processes that share one. Light to import."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydantic import Field

from fpnas.stages.config import Runtime, StageConfig
from fpnas.training.recipe import Recipe

if TYPE_CHECKING:
    from fpnas.parallel import Ranks
    from fpnas.stages.base import StageContext


class TrainRuntime(Runtime):
    """How a training run is carried out.

    Attributes:
        num_processes: Processes that share every step. A run may go on with another number of
            them: the steps take the same pictures. Batch normalization sees a process's pictures
            only, and sums are rounded otherwise.
    """

    num_processes: int = Field(default=1, ge=1)


class TrainingConfig(StageConfig):
    """A training run on the pictures with their labels, which several processes may share.

    Attributes:
        recipe: How.
        seed: Of the initial weights, the order and the augmentation.
    """

    recipe: Recipe
    seed: int = 0
    runtime: TrainRuntime = TrainRuntime()


def check(config: TrainingConfig) -> None:
    """Makes sure, before any work, that this machine can do what a recipe asks for.

    Raises:
        InputError: Naming what it cannot.
    """
    if config.recipe.sync_batch_norm:
        from fpnas.stages.batches import device_of
        from fpnas.training.batch_norm import check_synchronized

        check_synchronized(config.runtime.num_processes, device_of(config.runtime.device))


@contextmanager
def training_ranks(context: StageContext) -> Iterator[Ranks]:
    """The processes of a stage that trains; see :func:`fpnas.stages.ranks.opened`."""
    from fpnas.stages.batches import device_of
    from fpnas.stages.ranks import opened, rank_device

    runtime: TrainRuntime = context.config.runtime
    device = rank_device(device_of(runtime.device))
    with opened(context, runtime.num_processes, device) as ranks:
        yield ranks
