"""What training from scratch and distillation share.

A model holds ``model.safetensors`` (the state of the network), ``architecture.json`` (from which
:mod:`fpnas.networks.description` builds it), ``model.json`` (classes, input statistics, scores),
``history.parquet``, ``confusion.parquet`` (validation pictures by their class, and by the class
ranked first) and ``unreadable.csv`` (pictures that could not be decoded).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from fpnas.stages.training_config import TrainingConfig

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from fpnas.data.augment import Augmentation
    from fpnas.data.dataset import Dataset, ReadableSplit
    from fpnas.networks.description import AnyArchitecture
    from fpnas.parallel import Ranks
    from fpnas.stages.base import StageContext
    from fpnas.stages.batches import LabelledBatches
    from fpnas.storage import Artifact
    from fpnas.training.evaluation import Details, Evaluation
    from fpnas.training.loop import Loss, Trainer, TrainingBatches
    from fpnas.training.recipe import Recipe


@dataclass(frozen=True)
class Workbench:
    """An opened dataset and an architecture, on a device, ready to train.

    Attributes:
        dataset: The pictures.
        architecture: What is trained.
        device: Where.
        config: How.
        ranks: The processes that share the work; None for this one alone.
        train_split: What is trained on.
        eval_split: What is scored.
    """

    dataset: Dataset
    architecture: AnyArchitecture
    device: str
    config: TrainingConfig
    ranks: Ranks | None = None
    train_split: ReadableSplit = "train"
    eval_split: ReadableSplit = "val"

    @classmethod
    def open(cls, context: StageContext, ranks: Ranks) -> Workbench:
        """Opens the inputs of a stage that trains."""
        from fpnas.networks.description import read_architecture
        from fpnas.stages.batches import open_dataset

        decoded = context.inputs["architecture"].read_json("architecture.json")
        return cls(
            open_dataset(context.inputs["dataset"]),
            read_architecture(decoded),
            ranks.device,
            context.config,
            ranks,
        )

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.ranks is None or self.ranks.rank == 0

    def network(self, architecture: AnyArchitecture, seed: int) -> nn.Module:
        """A freshly initialized network, as the recipe wants it."""
        import torch

        from fpnas.networks.description import build_network

        recipe = self.config.recipe
        torch.manual_seed(seed)
        network = build_network(
            architecture,
            self.dataset.num_classes,
            dropout=recipe.dropout,
            stochastic_depth=recipe.stochastic_depth,
        )
        self.place(network)
        return network

    def place(self, network: nn.Module) -> None:
        """Moves any network to the device, and gives it the recipe's memory layout and norms."""
        import torch

        from fpnas.training.batch_norm import set_batch_norm

        recipe = self.config.recipe
        set_batch_norm(network, recipe)
        layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
        network.to(self.device).to(memory_format=layout)

    @cached_property
    def _val_batches(self) -> LabelledBatches:
        """Kept, so that the pictures are decoded once and not in every epoch."""
        return self._open_val(self.ranks)

    def _open_val(self, ranks: Ranks | None) -> LabelledBatches:
        """This process's share of the validation pictures."""
        from fpnas.data.loader import ImageLoader
        from fpnas.stages.batches import LabelledBatches

        rank, size = _share(ranks)
        loader = ImageLoader(
            self.dataset,
            self.eval_split,
            batch_size=max(self.config.recipe.batch_size, 128),
            input_size=self.architecture.input_size,
            training=False,
            seed=0,
            augmentation=self.config.recipe.augmentation,
            device=self.device,
            rank=rank,
            world_size=size,
        )
        return LabelledBatches(loader)

    @property
    def eval_crop(self) -> float | None:
        """The centre square that evaluation takes; see ``Augmentation``."""
        return self._val_batches.loader.augmentation.eval_crop

    def evaluate(self, network: nn.Module) -> Evaluation:
        """Scores a network on the pictures of the evaluation split."""
        from fpnas.training.evaluation import evaluate

        return evaluate(network, self._val_batches, self.ranks)

    def details(self, network: nn.Module) -> Details:
        """Where a network errs on the same pictures, found by this process alone."""
        from fpnas.training.evaluation import evaluate_details

        alone = self.ranks is None or self.ranks.size == 1
        batches = self._val_batches if alone else self._open_val(None)
        return evaluate_details(network, batches, self.dataset.num_classes)

    def augmentation(self, recipe: Recipe) -> Augmentation:
        """What the recipe does to the training pictures."""
        from fpnas.data.augment import default_augmentation, get_augmentation

        size = self.architecture.input_size
        name = recipe.augmentation or default_augmentation(self.dataset.source, size)
        red, green, blue = (round(255 * value) for value in self.dataset.mean)
        return replace(
            get_augmentation(name),
            rand_augment_ops=recipe.rand_augment_ops,
            rand_augment_magnitude=recipe.rand_augment_magnitude,
            auto_augment=recipe.auto_augment,
            random_erasing=recipe.random_erasing,
            fill=(red, green, blue),
        )

    def trainer(self, network: nn.Module, recipe: Recipe, loss: Loss) -> Trainer:
        """A training run of a network on the pictures of the training split.

        Raises:
            InputError: A part of a step would have fewer than two pictures, or the processes cannot
                normalize together.
        """
        from fpnas.data.loader import ImageLoader
        from fpnas.stages.batches import Batches
        from fpnas.training.batch_norm import synchronized
        from fpnas.training.loop import Trainer

        if recipe.sync_batch_norm and self.ranks is not None:
            network = synchronized(network, self.ranks)

        rank, size = _share(self.ranks)
        loader = ImageLoader(
            self.dataset,
            self.train_split,
            batch_size=recipe.batch_size,
            input_size=self.architecture.input_size,
            training=True,
            seed=self.config.seed,
            augmentation=self.augmentation(recipe),
            device=self.device,
            rank=rank,
            world_size=size,
        )
        replace(recipe, batch_size=min(recipe.batch_size, loader.num_images)).check_parts(size)
        batches = Batches(loader)
        return Trainer(network, batches, recipe, loss, self.evaluate, self.config.seed, self.ranks)

    def unreadable(self, trainer: Trainer) -> pd.DataFrame:
        """The pictures that could not be decoded: columns ``name``, ``split`` and ``reason``."""
        import pandas as pd

        parts: tuple[tuple[ReadableSplit, TrainingBatches | LabelledBatches], ...] = (
            (self.train_split, trainer.batches),
            (self.eval_split, self._val_batches),
        )
        rows = [
            (self.dataset.split(split)["name"][int(row)], split, reason)
            for split, batches in parts
            for row, reason in batches.state_dict()["unreadable"].items()
        ]
        return pd.DataFrame(rows, columns=["name", "split", "reason"])


def _share(ranks: Ranks | None) -> tuple[int, int]:
    """Which pictures of a split are this process's: its number, and that of all."""
    return (ranks.rank, ranks.size) if ranks is not None else (0, 1)


def train(
    context: StageContext, trainer: Trainer, *, phase: str = "", saved: Any = None, kept: Any = None
) -> Evaluation:
    """Trains to the end with checkpoints, metrics and progress, which the first process writes.

    Args:
        context: Of the stage.
        trainer: The run.
        phase: Put before the names of metrics when a stage trains more than one network.
        saved: State to go on from.
        kept: Put into every checkpoint beside the trainer's state.
    """
    from fpnas.stages.batches import share_unreadable

    if saved is not None:
        trainer.load_state(saved)
    total = trainer.num_steps
    latest = ""

    def on_step(record: dict[str, float] | None) -> None:
        nonlocal latest
        if trainer.ranks.rank > 0:
            return
        if record is not None:
            epoch = round(record["epoch"])
            metrics = {
                f"{phase}{k}": v for k, v in record.items() if k != "epoch" and math.isfinite(v)
            }
            context.tracking.log_metrics(epoch, metrics)
            latest = f", top-1 {record['top1']:.3f}"
        epochs = trainer.step / len(trainer.batches)
        message = f"{phase.rstrip('_') or 'epoch'} {epochs:.1f} of {trainer.recipe.epochs}{latest}"
        context.after_step(
            trainer.step, total, lambda: {"trainer": trainer.state(), "kept": kept}, message
        )

    evaluation = trainer.run(on_step)
    share_unreadable(trainer.batches, trainer.ranks)
    return evaluation


def write_model(
    context: StageContext,
    bench: Workbench,
    trainer: Trainer,
    evaluation: Evaluation,
    extra: dict[str, Any] | None = None,
) -> None:
    """Writes the model artifact."""
    import pandas as pd

    from fpnas.report.figures import training_curves
    from fpnas.training.batch_norm import portable_state
    from fpnas.training.loop import TRAINING_COLUMNS

    output = context.output
    details = bench.details(trainer.final_network)
    unreadable = bench.unreadable(trainer)
    unreadable.to_csv(output.path("unreadable.csv"), index=False)
    output.write_tensors("model.safetensors", portable_state(trainer.final_network))
    output.write_json("architecture.json", bench.architecture.to_json())
    output.write_json(
        "model.json",
        {
            "classes": [asdict(info) for info in bench.dataset.classes],
            "mean": list(bench.dataset.mean),
            "std": list(bench.dataset.std),
            "input_size": bench.architecture.input_size,
            "crop": bench.eval_crop,
            "evaluation": asdict(evaluation),
            "calibration_error": details.calibration_error,
            "skipped_steps": trainer.num_skipped,
            "unreadable_images": len(unreadable),
            **(extra or {}),
        },
    )
    keys = [info.key for info in bench.dataset.classes]
    confusion = pd.DataFrame(details.confusion.numpy(), index=keys, columns=keys)
    confusion.to_parquet(output.path("confusion.parquet"))
    history = pd.DataFrame(trainer.history, columns=list(TRAINING_COLUMNS))
    history.to_parquet(output.path("history.parquet"), index=False)
    context.tracking.log_metrics(0, {"unreadable_images": len(unreadable)})
    figure = training_curves({context.stage.name: history})
    context.tracking.log_figure(figure, "training_curves.png")


def load_model(artifact: Artifact) -> tuple[nn.Module, dict[str, Any]]:
    """Reads a model artifact: the network in evaluation mode, and ``model.json``."""
    from fpnas.networks.description import build_network, read_architecture

    info = artifact.read_json("model.json")
    architecture = read_architecture(artifact.read_json("architecture.json"))
    network = build_network(architecture, len(info["classes"]))
    network.load_state_dict(artifact.read_tensors("model.safetensors"))
    return network.eval(), info
