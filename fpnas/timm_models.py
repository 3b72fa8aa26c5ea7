"""Networks of FP-NAS as a model of timm: importing this module registers it.

    import timm, fpnas.timm_models
    model = timm.create_model("fp_nas", architecture="c16s2-...-c256@32", num_classes=10)
    model = timm.create_model("fp_nas", exported="exported/model.safetensors")

The first has fresh weights; the second those of a run, with its classes, its input size and its
statistics, which ``timm.data.resolve_model_data_config`` finds. timm's scripts train, validate and
fine-tune either. Tensor shapes: B pictures, S input size, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm.models
from torch import Tensor, nn

from fpnas.architecture import Architecture, parse_architecture
from fpnas.data.augment import IMAGENET_MEAN, IMAGENET_STD
from fpnas.errors import InputError
from fpnas.networks.network import Network
from fpnas.training.inference import load_classifier

__all__ = ["TimmNetwork", "fp_nas"]


class TimmNetwork(Network):
    """A network with the attributes that timm's scripts ask a model for.

    Args:
        architecture: What to build.
        num_classes: Width of the classifier.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth.
        mean: Of the pictures that it is for, RGB, 1 being white.
        std: Standard deviation of the same.
        crop: Centre square that evaluation keeps; None squeezes the picture.
    """

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int,
        *,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        crop: float | None = None,
    ) -> None:
        super().__init__(
            architecture, num_classes, dropout=drop_rate, stochastic_depth=drop_path_rate
        )
        self.architecture = architecture
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = architecture.head_channels
        size = architecture.input_size
        self.pretrained_cfg = self.default_cfg = {
            "architecture": "fp_nas",
            "num_classes": num_classes,
            "input_size": (3, size, size),
            "mean": tuple(mean),
            "std": tuple(std),
            "interpolation": "bilinear",
            "crop_pct": crop or 1.0,
            "crop_mode": "center" if crop else "squash",
            "first_conv": "stem.0",
            "classifier": "classifier",
        }

    def forward_features(self, images: Tensor) -> Tensor:
        """Maps normalized pictures (B, 3, S, S) to features (B, C, S / stride, S / stride)."""
        features: Tensor = self.head(self.blocks(self.stem(images)))
        return features

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Maps features to logits (B, classes), or to (B, C) before the classifier."""
        pooled: Tensor = self.dropout(features.mean(dim=(2, 3)))
        return pooled if pre_logits else self.classifier(pooled)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the last layer by a fresh one, to fine-tune; without one when 0 classes."""
        if global_pool not in (None, "avg"):
            raise InputError("global_pool", global_pool, "is not built", legal="avg", fix="use avg")
        self.num_classes = num_classes
        fresh = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.add_module("classifier", fresh)


def fp_nas(
    pretrained: bool = False,
    *,
    architecture: str | None = None,
    exported: str | Path | None = None,
    num_classes: int | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    in_chans: int = 3,
    **_others: Any,
) -> TimmNetwork:
    """Builds a network; timm's entry point.

    Args:
        pretrained: Only with ``exported``, which implies it.
        architecture: In one line, for fresh weights.
        exported: ``model.safetensors`` of ``fpnas export``, for a run's weights.
        num_classes: 1000 by default; with ``exported`` another number than the file's gives a
            fresh classifier.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth.
        in_chans: Colours; only 3.

    Raises:
        InputError: Neither an architecture nor a file, both, or something that is not built.
    """
    if in_chans != 3:
        raise InputError("in_chans", in_chans, "is not built", legal="3", fix="use RGB pictures")
    if (architecture is None) == (exported is None):
        raise InputError(
            "architecture",
            architecture,
            f"cannot be had with exported={exported}",
            fix="give an architecture for fresh weights, or an exported file for a run's",
        )
    if architecture is not None:
        if pretrained:
            raise InputError(
                "pretrained", pretrained, "has no weights", fix="give exported=model.safetensors"
            )
        classes = 1000 if num_classes is None else num_classes
        return TimmNetwork(
            parse_architecture(architecture),
            classes,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
        )
    assert exported is not None
    classifier, card = load_classifier(Path(exported), field="exported")
    model = TimmNetwork(
        parse_architecture(card.architecture),
        len(card.classes),
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        mean=classifier.mean.flatten().tolist(),
        std=classifier.std.flatten().tolist(),
        crop=card.crop,
    )
    model.load_state_dict(classifier.network.state_dict())
    model.pretrained_cfg["label_names"] = card.classes
    if num_classes is not None and num_classes != len(card.classes):
        model.reset_classifier(num_classes)
    return model


timm.models.register_model(fp_nas)
