"""Training recipes as data. Light to import."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from fpnas.errors import InputError


@dataclass(frozen=True)
class _Range:
    """An interval; ``open_`` names the ends that do not belong to it."""

    low: float
    high: float = math.inf
    open_: Literal["", "low", "high", "both"] = ""

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_ in ("low", "both") else value >= self.low
        below = value < self.high if self.open_ in ("high", "both") else value <= self.high
        return above and below

    def __str__(self) -> str:
        ends = {"low": [self.low], "high": [self.high], "both": [self.low, self.high]}
        excluded = " and ".join(f"{end:g}" for end in ends.get(self.open_, []))
        return f"{self.low:g} to {self.high:g}" + (f", without {excluded}" if excluded else "")


_SHARE = _Range(0, 1, "high")
_RANGES = {
    "epochs": _Range(1),
    "batch_size": _Range(2),
    "accumulation": _Range(1),
    "learning_rate": _Range(0, open_="low"),
    "decay_rate": _Range(0, 1, "both"),
    "momentum": _SHARE,
    "weight_decay": _Range(0),
    "label_smoothing": _SHARE,
    "dropout": _SHARE,
    "stochastic_depth": _SHARE,
    "mixup": _Range(0),
    "cutmix": _Range(0),
    "rand_augment_ops": _Range(0),
    "rand_augment_magnitude": _Range(0, 30),
    "random_erasing": _Range(0, 1),
    "batch_norm_momentum": _Range(0, 1, "low"),
    "batch_norm_eps": _Range(0, 1, "both"),
    "ema_decay": _SHARE,
    "max_grad_norm": _Range(0, open_="low"),
    "max_skipped_steps": _Range(0),
}


@dataclass(frozen=True)
class Recipe:
    """How a network is trained from scratch. All of it is our choice; the paper gives none.

    Attributes:
        epochs: Passes over the training pictures.
        batch_size: Pictures a step, over all processes.
        accumulation: Parts into which a process cuts its share of a step, to need less memory.
            Batch normalization sees a part at a time.
        optimizer: ``sgd`` (Nesterov momentum), ``adamw``, or ``rmsprop`` as MobileNetV3 and
            EfficientNet use it (smoothing 0.9, epsilon 0.0316).
        learning_rate: At the peak.
        warmup_epochs: Linear rise to the peak; the schedule follows.
        schedule: ``cosine`` to zero, or ``exponential``.
        decay_rate: Of the exponential schedule, the factor of an epoch.
        momentum: Of SGD and RMSprop.
        weight_decay: Of weights with two or more dimensions; norms and biases have none.
        label_smoothing: Probability spread over the other classes.
        dropout: Before the classifier.
        stochastic_depth: Probability of dropping the last block's residual branch; linear in
            depth from zero (Huang et al., ECCV 2016).
        mixup: Alpha of mixup (Zhang et al., ICLR 2018); 0 for none. With cutmix as well, each
            step takes one of the two.
        cutmix: Alpha of cutmix (Yun et al., ICCV 2019); 0 for none.
        rand_augment_ops: Operations of RandAugment (Cubuk et al., 2020) a picture; 0 for none.
        rand_augment_magnitude: How strong they are, of 30.
        auto_augment: Policy of AutoAugment (Cubuk et al., CVPR 2019) instead: ``imagenet``,
            ``cifar10`` or ``svhn``, the pictures that it was found on; None for none.
        random_erasing: Probability of erasing a box of a picture (Zhong et al., AAAI 2020).
        batch_norm_momentum: Weight of a new batch in the running statistics.
        batch_norm_eps: Added to the variance.
        sync_batch_norm: Normalize by the pictures of all processes instead of a process's own;
            costs a sum over them in every layer. On GPUs only, as PyTorch's is.
        ema_decay: Of the exponential moving average of the weights, which is what is evaluated
            and kept; 0 keeps the weights themselves.
        max_grad_norm: The gradient is scaled down to this norm; None leaves it as it is.
        max_skipped_steps: A step whose loss or gradient is not finite is skipped; so many in a
            row are borne, one more ends the run.
        precision: ``bf16`` and ``fp16`` compute the layers that bear it in half precision;
            weights and evaluation stay in single precision.
        channels_last: The memory layout that convolutions prefer on CPUs and tensor cores.
        compile: Train with torch.compile. Pays off from minutes of training on.
        augmentation: Crop and flip of the pictures, a preset; None takes the default for the
            source and the size.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    epochs: int
    batch_size: int = 128
    accumulation: int = 1
    optimizer: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    learning_rate: float = 0.1
    warmup_epochs: float = 1.0
    schedule: Literal["cosine", "exponential"] = "cosine"
    decay_rate: float = 0.97
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    rand_augment_ops: int = 0
    rand_augment_magnitude: int = 9
    auto_augment: Literal["imagenet", "cifar10", "svhn"] | None = None
    random_erasing: float = 0.0
    batch_norm_momentum: float = 0.1
    batch_norm_eps: float = 1e-5
    sync_batch_norm: bool = False
    ema_decay: float = 0.99
    max_grad_norm: float | None = 5.0
    max_skipped_steps: int = 10
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    augmentation: str | None = None

    def __post_init__(self) -> None:
        for field, legal in _RANGES.items():
            value = getattr(self, field)
            if value is not None and value not in legal:
                raise InputError(
                    f"recipe.{field}",
                    value,
                    "is out of range",
                    legal=str(legal),
                    fix="correct the recipe",
                )
        if self.auto_augment is not None and self.rand_augment_ops:
            raise InputError(
                "recipe.auto_augment",
                self.auto_augment,
                f"does not go with {self.rand_augment_ops} operation(s) of RandAugment",
                fix="set recipe.rand_augment_ops=0, or leave one of the two out",
            )
        if not 0 <= self.warmup_epochs < self.epochs:
            raise InputError(
                "recipe.warmup_epochs",
                self.warmup_epochs,
                "is out of range: the learning rate would never fall",
                legal=f"0 to less than the {self.epochs} epochs",
                fix="shorten the warm-up or train longer",
            )
        self.check_parts(1)

    def check_parts(self, num_processes: int) -> None:
        """Makes sure that every part of a step has the pictures batch normalization needs.

        Raises:
            InputError: A part would have fewer than two.
        """
        most = self.batch_size // (2 * num_processes)
        if self.accumulation > most:
            raise InputError(
                "recipe.accumulation",
                self.accumulation,
                f"cuts the {self.batch_size} pictures of a step on {num_processes} processes into "
                "parts of fewer than two",
                legal=f"1 to {most}" if most else "none",
                fix="raise recipe.batch_size",
            )

    def learning_rate_at(self, epoch: float) -> float:
        """The learning rate after ``epoch`` passes, which may be a fraction."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * epoch / self.warmup_epochs
        past = epoch - self.warmup_epochs
        if self.schedule == "exponential":
            return self.learning_rate * math.pow(self.decay_rate, past)
        span = max(self.epochs - self.warmup_epochs, 1e-9)
        progress = min(past / span, 1.0)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))

    def shortened(self, epochs: int) -> Recipe:
        """The recipe with other epochs, and a warm-up of at most a quarter of them if need be."""
        warmup = self.warmup_epochs if self.warmup_epochs < epochs else epochs / 4
        return replace(self, epochs=epochs, warmup_epochs=warmup)
