"""Mixup and cutmix: pictures of a batch mixed with each other, and so their losses.

Tensor shapes: B pictures.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fpnas.training.recipe import Recipe


class Mixed(NamedTuple):
    """A batch of mixed pictures.

    Attributes:
        images: Mixed, (B, 3, H, W).
        share: Of the picture at its own place; the rest is its partner's.
        partners: Places of the partners, (B,), on the CPU.
    """

    images: Tensor
    share: float
    partners: Tensor


def mix(images: Tensor, recipe: Recipe) -> Mixed | None:
    """Mixes a batch as the recipe says, by torchvision's mixup and cutmix.

    The loss is linear in the target, so ``share * loss(own) + (1 - share) * loss(partner)`` is the
    loss with the mixed target, whatever else the loss looks up by the picture.

    Args:
        images: (B, 3, H, W).
        recipe: Its ``mixup`` and ``cutmix``.

    Returns:
        None when the recipe mixes nothing. Draws from PyTorch's own generator.
    """
    if not (recipe.mixup or recipe.cutmix):
        return None
    from torchvision.transforms import v2

    places = torch.arange(len(images))
    # The places take the part of labels: what comes back says who was mixed with whom.
    transforms = [
        kind(alpha=alpha, num_classes=len(images))
        for kind, alpha in ((v2.MixUp, recipe.mixup), (v2.CutMix, recipe.cutmix))
        if alpha
    ]
    mixed, shares = v2.RandomChoice(transforms)(images, places)
    own = shares.diagonal()
    partners = (shares - torch.diag(own)).argmax(dim=1)
    return Mixed(mixed, float(own[0]), partners)
