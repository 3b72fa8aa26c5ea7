"""Published results to compare with.

Top-1 on ImageNet after training from scratch without distillation, from the tables of the FP-NAS
paper (CVPR 2021). The paper calls MACs FLOPS. Where it gives two values for one figure
(FBNetV2-F4: 75.8 and 75.9), the one of its comparison table is taken.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelPoint:
    """A classifier by cost and accuracy.

    Attributes:
        name: What to call it.
        macs: Multiply-accumulates for one picture.
        top1: Share of pictures classified correctly, 0 to 1, after training from scratch.
        distilled: The same with a teacher; None without.
    """

    name: str
    macs: float
    top1: float
    distilled: float | None = None

    @property
    def scores(self) -> list[float]:
        """Both accuracies, or the one that there is."""
        return [self.top1] if self.distilled is None else [self.top1, self.distilled]


PUBLISHED: tuple[ModelPoint, ...] = tuple(
    ModelPoint(name, macs * 1e6, top1 / 100)
    for name, macs, top1 in (
        ("MobileNetV3-Small", 66, 67.4),
        ("FBNetV2-F1", 56, 68.3),
        ("FP-NAS-S1++", 66, 70.0),
        ("MobileNeXt-1.0", 300, 74.0),
        ("MobileNetV3-Large", 219, 75.2),
        ("MnasNet-A1", 312, 75.2),
        ("FBNetV2-F4", 242, 75.8),
        ("BigNAS-S", 242, 75.3),
        ("FP-NAS-S4++", 268, 76.6),
        ("ProxylessNAS", 465, 75.1),
        ("MobileNeXt-1.1", 420, 76.7),
        ("EfficientNet-B0", 390, 77.3),
        ("FBNetV2-L1", 325, 77.2),
        ("AtomNAS", 363, 77.6),
        ("BigNAS-M", 418, 77.4),
        ("FP-NAS-L0", 399, 78.0),
        ("EfficientNet-B1", 734, 79.1),
        ("BigNAS-L", 586, 78.2),
        ("FP-NAS-L1", 728, 80.0),
        ("EfficientNet-B2", 1050, 80.3),
        ("BigNAS-XL", 1040, 79.3),
        ("FP-NAS-L2", 1045, 80.7),
    )
)
