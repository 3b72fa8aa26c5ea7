"""Distill: the decoded architecture from scratch, with a teacher's opinion on every picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from fpnas.stages.config import SpaceConfig
from fpnas.stages.training import TrainingConfig, Workbench, train, write_model

if TYPE_CHECKING:
    from torch import Tensor

    from fpnas.stages.base import StageContext
    from fpnas.storage import Artifact, Store


class Config(TrainingConfig):
    """A distillation. The paper gives neither teacher, temperature nor weight; all is ours.

    Attributes:
        space: Of the architecture, in which a wider teacher is found.
        teacher: ``auto`` takes EfficientNet-Lite0 when it is installed and knows all classes,
            else ``wider``: the architecture at the largest widths of the space, trained here.
        temperature: Softens teacher and student.
        weight: Of the teacher against the labels.
        teacher_epochs: Training of a wider teacher.
        teacher_input_size: Pixels that an ImageNet teacher sees.
    """

    space: SpaceConfig
    teacher: Literal[
        "auto", "wider", "efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"
    ] = "auto"
    temperature: float = Field(default=2.0, gt=0)
    weight: float = Field(default=0.7, ge=0, le=1)
    teacher_epochs: int = Field(default=10, ge=1)
    teacher_input_size: int = Field(default=160, ge=32)


def resolve(config: Config, inputs: Mapping[str, Artifact], _store: Store) -> dict[str, Any]:
    """Which teacher ``auto`` is here, since it depends on what is installed."""
    from fpnas.training.teachers import resolve_teacher

    classes = inputs["dataset"].read_json("dataset.json")["classes"]
    return {"teacher": resolve_teacher(config.teacher, [c["key"] for c in classes])}


def run(context: StageContext) -> None:
    """Gets the teacher's logits, trains the student on them and writes the model."""
    from fpnas.training.distillation import distillation_loss

    config: Config = context.config
    bench = Workbench.open(context)
    name = resolve(config, context.inputs, context.store)["teacher"]
    saved = context.restore()
    if saved is not None and saved["kept"] is not None:
        teacher, trainer_state = saved["kept"], saved["trainer"]
    else:
        teacher = _teach(context, bench, name, saved and saved["trainer"])
        trainer_state = None
    recipe = config.recipe
    loss = distillation_loss(
        teacher["logits"],
        temperature=config.temperature,
        weight=config.weight,
        label_smoothing=recipe.label_smoothing,
    )
    # The same initial weights and order as the undistilled model: they differ by the loss alone.
    network = bench.network(bench.architecture, config.seed)
    trainer = bench.trainer(network, recipe, loss)
    evaluation = train(context, trainer, saved=trainer_state, kept=teacher)
    context.tracking.log_metrics(0, {"teacher_top1": teacher["top1"]})
    write_model(
        context,
        bench,
        trainer,
        evaluation,
        {"teacher": {"name": name, "top1": teacher["top1"], "macs": teacher["macs"]}},
    )


def _teach(context: StageContext, bench: Workbench, name: str, saved: Any) -> dict[str, Any]:
    """The teacher's logits on the training pictures, and its own validation accuracy."""
    if name == "wider":
        return _train_wider(context, bench, saved)
    from fpnas.cost import count_macs
    from fpnas.training.distillation import logit_accuracy
    from fpnas.training.teachers import load_efficientnet_lite

    keys = [info.key for info in bench.dataset.classes]
    teacher = load_efficientnet_lite(name, keys)
    teacher.network.to(bench.device)
    size = context.config.teacher_input_size
    macs = count_macs(teacher.network, size)
    logits, _ = _logits(context, bench, teacher.logits, "train", size)
    val_logits, labels = _logits(context, bench, teacher.logits, "val", size)
    read = labels >= 0
    return {"logits": logits, "top1": logit_accuracy(val_logits[read], labels[read]), "macs": macs}


def _train_wider(context: StageContext, bench: Workbench, saved: Any) -> dict[str, Any]:
    from fpnas.architecture import Architecture
    from fpnas.cost import architecture_cost
    from fpnas.data.augment import normalize
    from fpnas.training.loop import label_loss
    from fpnas.training.teachers import wider_architecture

    config: Config = context.config
    assert isinstance(bench.architecture, Architecture)
    architecture = wider_architecture(config.space.open(), bench.architecture)
    recipe = config.recipe.shortened(config.teacher_epochs)
    network = bench.network(architecture, config.seed + 1)
    trainer = bench.trainer(network, recipe, label_loss(recipe))
    evaluation = train(context, trainer, phase="teacher_", saved=saved)
    final = trainer.final_network.eval()
    dataset = bench.dataset
    logits, _ = _logits(
        context,
        bench,
        lambda images: final(normalize(images, dataset.mean, dataset.std)),
        "train",
        architecture.input_size,
    )
    macs, _ = architecture_cost(architecture, dataset.num_classes)
    return {"logits": logits, "top1": evaluation.top1, "macs": macs}


def _logits(
    context: StageContext, bench: Workbench, teacher: Any, split: Literal["train", "val"], size: int
) -> tuple[Tensor, Tensor]:
    """The teacher's logits on a split, in its order, without augmentation; and the labels.

    A picture that cannot be decoded, which training does not see either, has the label -1.
    """
    import torch

    from fpnas.data.loader import ImageLoader

    loader = ImageLoader(
        bench.dataset,
        split,
        batch_size=64,
        input_size=size,
        training=False,
        seed=0,
        augmentation="none",
    )
    logits = torch.zeros(loader.num_images, bench.dataset.num_classes)
    labels = torch.full((loader.num_images,), -1)
    done = 0
    with torch.inference_mode():
        for batch in loader:
            logits[batch.indices] = teacher(batch.images.to(bench.device)).float().cpu()
            labels[batch.indices] = batch.labels
            done += len(batch.labels)
            context.progress(done, loader.num_images, f"teacher on {split}: {done} pictures")
    return logits, labels
