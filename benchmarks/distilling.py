"""What distillation is worth: the same network and recipe with a teacher and without.

    python benchmarks/distilling.py --images FOLDER [--seeds 3] [--epochs 6] [--variants NAME ...]

The student is an architecture that FP-NAS found (``results/searches.csv``, fpnas, seed 2), the
teacher EfficientNet-Lite0 at 160 px. Tiny-ImageNet is made of pictures of ImageNet, so this teacher
has probably seen them. It looks once at every picture and its mirror image, which is kept beside
the pictures. Appends to ``results/teachers.csv`` (the teacher's own accuracy) and
``results/distilling.csv`` (one row a training run).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from workshop import (
    RECIPE,
    RESULTS,
    Row,
    append,
    dataset,
    in_processes,
    prepared,
    read,
    searched,
)

from fpnas.stages.teaching import look_at
from fpnas.stages.training import Workbench
from fpnas.stages.training_config import TrainingConfig
from fpnas.training.distillation import Kind, distillation_loss, logit_accuracy
from fpnas.training.fitted_head import FittedHead, cross_fitted_logits
from fpnas.training.loop import label_loss
from fpnas.training.teachers import load_teacher

TEACHER, TEACHER_SIZE = "efficientnet_lite0", 160
TEACHERS, DISTILLING = RESULTS / "teachers.csv", RESULTS / "distilling.csv"
PENALTIES = (0.001, 0.01, 0.03, 0.1)


@dataclass(frozen=True)
class Variant:
    """How is distilled; ``head`` is None without a teacher."""

    head: str | None
    kind: Kind = "soft"
    temperature: float = 1.0
    weight: float = 0.0


VARIANTS = {
    "undistilled": Variant(None),
    "fitted, T 2, weight 1": Variant("fitted", "soft", 2.0, 1.0),
    "own, T 2, weight 0.7": Variant("own", "soft", 2.0, 0.7),
    "own, T 2, weight 1": Variant("own", "soft", 2.0, 1.0),
    "fitted, T 2, weight 0.7": Variant("fitted", "soft", 2.0, 0.7),
    "fitted, T 1, weight 1": Variant("fitted", "soft", 1.0, 1.0),
    "fitted, T 4, weight 1": Variant("fitted", "soft", 4.0, 1.0),
    "fitted, alpha, T 2, weight 1": Variant("fitted", "alpha", 2.0, 1.0),
    "fitted, hard, weight 0.5": Variant("fitted", "hard", 1.0, 0.5),
}


def looked(folder: Path) -> Path:
    """The teacher's features and own logits on both splits and both views, made once."""
    path = folder.parent / f"{folder.name}-{TEACHER}-{TEACHER_SIZE}.safetensors"
    if path.is_file():
        return path
    data = dataset(folder)
    teacher = load_teacher(TEACHER, data.classes)
    assert teacher.class_indices is not None
    *_, classifier = (m for m in teacher.network.modules() if isinstance(m, nn.Linear))
    teacher.network.to(memory_format=torch.channels_last)
    bench = Workbench(data, student(), "cpu", TrainingConfig(recipe=RECIPE))
    context: Any = SimpleNamespace(progress=lambda *_: None)
    tensors = {}
    for split in ("val", "train"):
        features, labels = look_at(context, bench, teacher.features, split, TEACHER_SIZE, 2)
        with torch.no_grad():
            logits = classifier(features)[..., teacher.class_indices]
        tensors |= {f"{split}_features": features, f"{split}_logits": logits.contiguous()}
        tensors[f"{split}_labels"] = labels
    save_file(tensors, path)
    return path


def measure_teacher(folder: Path) -> Row:
    """The teacher's own accuracy by its classifier; the rows go under ``rows``."""
    seen = load_file(looked(folder))
    labels = seen["val_labels"]
    num_classes = seen["val_logits"].shape[-1]
    found = [("own", "", seen["val_logits"])]
    for penalty in PENALTIES:
        head = FittedHead.fit(seen["train_features"], seen["train_labels"], num_classes, penalty)
        found.append(("fitted", penalty, head(seen["val_features"])))
    crossed = cross_fitted_logits(seen["train_features"], seen["train_labels"], num_classes)
    train = [("own", seen["train_logits"]), ("fitted", crossed)]
    rows = [_figures(head, "val", penalty, logits, labels) for head, penalty, logits in found]
    rows += [_figures(head, "train", "", told, seen["train_labels"]) for head, told in train]
    return {"rows": rows}


def _figures(
    head: str, split: str, penalty: Any, logits: torch.Tensor, labels: torch.Tensor
) -> Row:
    mean = logits.mean(dim=1)
    entropy = -(mean.softmax(1) * mean.log_softmax(1)).sum(1).mean()
    return {
        "teacher": TEACHER,
        "input_size": TEACHER_SIZE,
        "head": head,
        "penalty": penalty,
        "split": split,
        "views": logits.shape[1],
        "top1": round(logit_accuracy(mean, labels), 4),
        "loss": round(float(F.cross_entropy(mean, labels)), 4),
        "entropy_nats": round(float(entropy), 3),
    }


def student() -> Any:
    """The architecture that is trained."""
    return searched("fpnas", seed=2)


def told(folder: Path, head: str) -> torch.Tensor:
    """What a student is told, (N, C)."""
    seen = load_file(looked(folder))
    if head == "own":
        return seen["train_logits"].mean(dim=1)
    features, labels = seen["train_features"], seen["train_labels"]
    return cross_fitted_logits(features, labels, seen["train_logits"].shape[-1]).mean(dim=1)


def distill(folder: Path, name: str, seed: int, epochs: int) -> Row:
    """Trains the student one way, and scores it on the validation pictures."""
    variant, architecture = VARIANTS[name], student()
    recipe = replace(RECIPE, epochs=epochs)
    bench = Workbench(
        dataset(folder), architecture, "cpu", TrainingConfig(recipe=recipe, seed=seed)
    )
    loss = label_loss(recipe)
    if variant.head:
        loss = distillation_loss(
            told(folder, variant.head),
            kind=variant.kind,
            temperature=variant.temperature,
            weight=variant.weight,
            label_smoothing=recipe.label_smoothing,
        )
    trainer = bench.trainer(bench.network(architecture, seed), recipe, loss)
    started, used = time.monotonic(), time.process_time()
    scores = trainer.run(lambda record: None)
    return {
        "variant": name,
        "seed": seed,
        "epochs": epochs,
        "top1": round(scores.top1, 4),
        "top5": round(scores.top5, 4),
        "loss": round(scores.loss, 4),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "architecture": str(architecture),
    }


def main() -> None:
    """Measures what is missing, the first variants first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="tiny-imagenet-25, extracted")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    folder = prepared(arguments.images)
    looked(folder)
    if not TEACHERS.is_file():
        for result in in_processes(measure_teacher, [(folder,)], 1):
            for row in result["rows"]:
                append(TEACHERS, row)
    known = {(r["variant"], int(r["seed"]), int(r["epochs"])) for r in read(DISTILLING)}
    jobs = [
        (folder, name, seed, arguments.epochs)
        for seed in range(arguments.seeds)
        for name in arguments.variants
        if (name, seed, arguments.epochs) not in known
    ]
    for row in in_processes(distill, jobs, arguments.workers):
        append(DISTILLING, row)


if __name__ == "__main__":
    main()
