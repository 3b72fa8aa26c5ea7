"""Distill: the decoded architecture from scratch, with a teacher's opinion on every picture."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from fpnas.errors import InputError, first_line
from fpnas.stages.config import SpaceConfig
from fpnas.stages.training import Workbench, train, write_model
from fpnas.stages.training_config import TrainingConfig, training_ranks
from fpnas.training.teachers import check_teacher

if TYPE_CHECKING:
    from torch import Tensor

    from fpnas.data.class_names import ClassInfo
    from fpnas.stages.base import StageContext
    from fpnas.stages.teaching import Lesson
    from fpnas.storage import Artifact, Store
    from fpnas.training.teacher import Teacher

_LOG = logging.getLogger("fpnas")
_REGISTERED_FILE = "exported/model.safetensors"
_STUDENT = "student"
"""Kept in a checkpoint of the student; one of a wider teacher keeps nothing."""


class Config(TrainingConfig):
    """A distillation. The paper gives neither teacher, temperature nor weight; all is ours.

    Attributes:
        space: Of the architecture, in which a wider teacher is found.
        teacher: ``efficientnet_lite0`` to ``2``, ``torchvision:NAME``, ``timm:NAME``,
            ``local:PATH``, ``mlflow:NAME@ALIAS``, or ``wider``: the architecture at the largest
            widths of the space, trained here. ``auto`` takes EfficientNet-Lite0 when it is
            installed and knows all classes, or a head is fitted; else ``wider``.
        teacher_head: ``own``, the teacher's classifier restricted to our classes; or ``fitted``, a
            linear one on its features, see :mod:`fpnas.training.fitted_head`.
        teacher_input_size: Pixels that the teacher sees; None takes what it was trained for.
        teacher_architecture: Of a local state dict, ``torchvision:NAME`` or ``timm:NAME``; None is
            for a ``model.safetensors`` that this project exported.
        teacher_classes: JSON file with the list of a local state dict's classes; None is for
            ImageNet's.
        teacher_epochs: Training of a wider teacher.
        loss: ``soft``, ``hard`` or ``alpha``; see
            :func:`fpnas.training.distillation.distillation_loss`.
        temperature: Softens teacher and student.
        weight: Of the teacher against the labels; None takes 1 for a fitted head, which gained in
            ``results/distilling.csv``, and 0.7 otherwise, which is not measured.
    """

    space: SpaceConfig
    teacher: str = "auto"
    teacher_head: Literal["own", "fitted"] = "own"
    teacher_input_size: int | None = Field(default=None, ge=32)
    teacher_architecture: str | None = None
    teacher_classes: str | None = None
    teacher_epochs: int = Field(default=10, ge=1)
    loss: Literal["soft", "hard", "alpha"] = "soft"
    temperature: float = Field(default=2.0, gt=0)
    weight: float | None = Field(default=None, ge=0, le=1)

    _known = field_validator("teacher")(check_teacher)


def sources(config: Config, _store: Store) -> dict[str, Any]:
    """What is in the file or the registry that a teacher comes from."""
    found: dict[str, Any] = {}
    for field in ("teacher", "teacher_classes"):
        path = str(getattr(config, field) or "").removeprefix("local:")
        if path and (field == "teacher_classes" or config.teacher.startswith("local:")):
            if not Path(path).is_file():
                raise InputError(f"distill.{field}", path, "is not a file", fix="correct the path")
            found[f"{field}_sha256"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if config.teacher.startswith("mlflow:"):
        version = _registered(config.teacher)
        found["version"] = f"{version.name} v{version.version} {version.run_id}"
    return found


def resolve(config: Config, inputs: Mapping[str, Artifact], _store: Store) -> dict[str, Any]:
    """Which teacher ``auto`` means here: what is installed, and whether it knows the classes."""
    from fpnas.training.teachers import resolve_teacher

    fitted = config.teacher_head == "fitted"
    classes = _classes(inputs["dataset"])
    return {"teacher": resolve_teacher(config.teacher, classes, fitted=fitted)}


def check(config: Config, classes: Sequence[ClassInfo], store: Store) -> None:
    """Makes sure, before any work, that the teacher can be had and knows the classes.

    Args:
        config: Of the stage.
        classes: Of the pictures; empty where only ``prepare`` will know them.
        store: The storage.

    Raises:
        InputError: Naming what cannot be used.
    """
    from fpnas.training.teachers import check_classes, resolve_teacher

    fitted = config.teacher_head == "fitted"
    sources(config, store)
    check_classes(
        resolve_teacher(config.teacher, classes, fitted=fitted),
        classes,
        fitted=fitted,
        architecture=config.teacher_architecture,
        their_classes=config.teacher_classes,
    )


def _classes(dataset: Artifact) -> list[ClassInfo]:
    from fpnas.data.class_names import ClassInfo

    return [ClassInfo(**entry) for entry in dataset.read_json("dataset.json")["classes"]]


def run(context: StageContext) -> None:
    """Gets the teacher's logits, trains the student on them and writes the model."""
    from fpnas.stages.teaching import renewed
    from fpnas.training.distillation import distillation_loss

    config: Config = context.config
    resolved = {
        **sources(config, context.store),
        **resolve(config, context.inputs, context.store),
    }
    saved = context.restore()
    of_student = saved is not None and saved["kept"] == _STUDENT
    with training_ranks(context) as ranks:
        bench = Workbench.open(context, ranks)
        of_teacher = None if of_student else saved and saved["trainer"]
        lesson = _learn(context, bench, resolved, of_teacher)
        weight = config.weight
        if weight is None:
            weight = 1.0 if lesson.details["head"] == "fitted" else 0.7
        loss = distillation_loss(
            lesson.logits,
            kind=config.loss,
            temperature=config.temperature,
            weight=weight,
            label_smoothing=config.recipe.label_smoothing,
        )
        # The same initial weights and order as the undistilled model: the loss alone differs.
        network = bench.network(bench.architecture, config.seed)
        trainer = bench.trainer(network, config.recipe, loss)
        if lesson.look is not None:
            trainer.batches = renewed(trainer.batches, lesson)
        state = saved["trainer"] if saved is not None and of_student else None
        evaluation = train(context, trainer, saved=state, kept=_STUDENT)
    if not bench.is_first:
        return
    if lesson.top1 < evaluation.top1 and resolved["teacher"] != "wider":
        _LOG.warning(
            "the teacher %s knows less (top-1 %.1f %%) than its student (%.1f %%); "
            "distill.teacher names a better one",
            resolved["teacher"],
            100 * lesson.top1,
            100 * evaluation.top1,
        )
    context.tracking.log_metrics(0, {"teacher_top1": lesson.top1})
    told = {"name": resolved["teacher"], "top1": lesson.top1, "macs": lesson.macs}
    told |= {"loss": config.loss, "temperature": config.temperature, "weight": weight}
    write_model(context, bench, trainer, evaluation, {"teacher": {**told, **lesson.details}})


def _learn(
    context: StageContext, bench: Workbench, resolved: Mapping[str, Any], saved: Any
) -> Lesson:
    """What the student is told, and the teacher's own accuracy."""
    from fpnas.stages.teaching import can_be_kept, kept_lesson, num_views, teach

    config: Config = context.config
    wider = resolved["teacher"] == "wider"
    fitted = config.teacher_head == "fitted" and not wider  # a wider one has our classes
    identity = {
        **resolved,
        "fitted": fitted,
        "views": num_views(bench),
        **config.model_dump(mode="json", include={"teacher_architecture"}),
    }
    if wider:
        trained = _identity_of_wider(config, bench)
        teacher = _wider(context, bench, trained, saved)
        size, identity = teacher.input_size, identity | trained
    else:
        teacher = _load(config, bench, resolved)
        size = config.teacher_input_size or teacher.input_size
    teacher.network.to(bench.device)
    if not can_be_kept(bench):
        lesson, look = teach(context, bench, teacher, size, fitted=fitted, once=False)
        return replace(lesson, look=look, input_size=size)
    identity["size"] = size
    return kept_lesson(
        context, bench, identity, lambda: teach(context, bench, teacher, size, fitted=fitted)[0]
    )


def _load(config: Config, bench: Workbench, resolved: Mapping[str, Any]) -> Teacher:
    """A teacher that was trained elsewhere."""
    from fpnas.training.teachers import load_teacher

    name = resolved["teacher"]
    with tempfile.TemporaryDirectory(prefix="fpnas-teacher-") as folder:
        if name.startswith("mlflow:"):
            run_id = resolved["version"].rpartition(" ")[2]
            name = f"local:{_download(name, run_id, folder)}"
        teacher = load_teacher(
            name,
            bench.dataset.classes,
            fitted=config.teacher_head == "fitted",
            architecture=config.teacher_architecture,
            their_classes=config.teacher_classes,
        )
    return replace(teacher, name=resolved["teacher"])


def _identity_of_wider(config: Config, bench: Workbench) -> dict[str, Any]:
    """What a wider teacher depends on besides the data set and the code."""
    return {
        "architecture": bench.architecture.to_json(),
        **config.model_dump(mode="json", include={"space", "recipe", "seed", "teacher_epochs"}),
    }


def _wider(
    context: StageContext, bench: Workbench, identity: Mapping[str, Any], saved: Any
) -> Teacher:
    """Finds the wider teacher, or trains it and keeps its weights."""
    from fpnas.architecture import Architecture
    from fpnas.networks.description import build_network
    from fpnas.stages.teaching import kept
    from fpnas.training.batch_norm import portable_state
    from fpnas.training.loop import label_loss
    from fpnas.training.teacher import Teacher
    from fpnas.training.teachers import wider_architecture

    config: Config = context.config
    assert isinstance(bench.architecture, Architecture)
    architecture = wider_architecture(config.space.open(), bench.architecture)

    def make() -> Mapping[str, Tensor]:
        recipe = config.recipe.shortened(config.teacher_epochs)
        trained = bench.network(architecture, config.seed + 1)
        trainer = bench.trainer(trained, recipe, label_loss(recipe))
        train(context, trainer, phase="teacher_", saved=saved)
        return portable_state(trainer.final_network)

    state = kept(
        context,
        bench,
        identity,
        kind="teacher_network",
        code=__name__,
        make=make,
        write=lambda writer, state: writer.write_tensors("model.safetensors", state),
        read=lambda artifact: artifact.read_tensors("model.safetensors"),
    )
    dataset = bench.dataset
    network = build_network(architecture, dataset.num_classes)
    network.load_state_dict(state)
    places = list(range(dataset.num_classes))
    size = architecture.input_size
    return Teacher("wider", network.eval(), size, dataset.mean, dataset.std, places)


def _registered(teacher: str) -> Any:
    """The version of ``mlflow:NAME@ALIAS``."""
    from fpnas import tracking

    name, _, alias = teacher.removeprefix("mlflow:").partition("@")
    client = tracking.connect_client(tracking.initialise().uri)()
    try:
        return client.get_model_version_by_alias(name, alias or "champion")
    except Exception as error:  # MLflow raises errors of many libraries
        raise InputError(
            "distill.teacher",
            teacher,
            f"is not in MLflow's registry ({first_line(error)})",
            legal="mlflow:NAME@ALIAS of a model that fpnas has registered",
            fix="see make mlflow-ui for names and aliases",
        ) from error


def _download(teacher: str, run_id: str, folder: str) -> str:
    """The exported weights of a registered model, as a file in a folder."""
    from fpnas import tracking

    client = tracking.connect_client(tracking.initialise().uri)()
    try:
        return str(client.download_artifacts(run_id, _REGISTERED_FILE, folder))
    except Exception as error:  # MLflow raises errors of many libraries
        raise InputError(
            "distill.teacher",
            teacher,
            f"has no {_REGISTERED_FILE} ({first_line(error)})",
            fix="register it again with this version and register.export",
        ) from error
