"""A teacher: a trained classifier with its own preprocessing, input size and classes.

Tensor shapes: B pictures, S input size of the teacher, K its classes, F its features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fpnas.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Teacher:
    """A trained classifier.

    Attributes:
        name: What it was asked for by.
        network: Maps preprocessed pictures (B, 3, S, S) to logits over its classes (B, K).
        input_size: S that it was trained for.
        mean: Its preprocessing: what is taken from values from 0 to 1, RGB.
        std: And what they are divided by.
        class_indices: Where our classes are among its own; None when they were not looked for.
    """

    name: str
    network: nn.Module
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    class_indices: list[int] | None

    def prepare(self, images: Tensor) -> Tensor:
        """Its inputs from uint8 pictures (B, 3, S, S)."""
        import torch

        from fpnas.data.augment import normalize

        layout = torch.channels_last
        return normalize(images, self.mean, self.std).contiguous(memory_format=layout)

    def logits(self, images: Tensor) -> Tensor:
        """Logits over our classes of uint8 pictures (B, 3, S, S)."""
        assert self.class_indices is not None
        found: Tensor = self.network(self.prepare(images))[:, self.class_indices]
        return found

    def features(self, images: Tensor) -> Tensor:
        """What its classifier, the last linear layer, sees of the same: (B, F)."""
        layer = self._classifier()
        assert layer is not None
        seen: list[Any] = []
        handle = layer.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
        try:
            self.network(self.prepare(images))
        finally:
            handle.remove()
        features: Tensor = seen[-1]
        return features

    def check(self, num_classes: int, *, fitted: bool) -> None:
        """Makes sure that its outputs, or its features, are what they are taken for.

        Args:
            num_classes: That its outputs stand for; not looked at when a head is fitted.
            fitted: Whether a classifier is fitted to its features.

        Raises:
            InputError: It has another number of outputs, or no linear layer to take features from.
        """
        import torch

        if fitted:
            if self._classifier() is None:
                raise InputError(
                    "distill.teacher_head",
                    "fitted",
                    f"needs a teacher whose classifier is a linear layer, and {self.name} has none",
                    legal="own, fitted",
                    fix="use distill.teacher_head=own, or another teacher",
                )
            return
        size = self.input_size
        with torch.inference_mode():
            outputs = self.network.eval()(torch.zeros(1, 3, size, size))
        found = outputs.shape[-1] if isinstance(outputs, torch.Tensor) else None
        if found != num_classes:
            raise InputError(
                "distill.teacher",
                self.name,
                f"has {found} outputs, so that which class each one stands for is not known",
                legal=f"{num_classes} outputs",
                fix="use a teacher of ImageNet's 1,000 classes, give distill.teacher_classes for a "
                "local one, or use distill.teacher_head=fitted",
            )

    def _classifier(self) -> nn.Linear | None:
        from torch import nn

        layers = [m for m in self.network.modules() if isinstance(m, nn.Linear)]
        return layers[-1] if layers else None
