"""What a teacher says about every training picture, kept as an artifact of its own.

Where training only flips and shifts pictures, the teacher looks once: at the whole picture, and at
its mirror image when training flips; the student is told the mean of its logits. The artifact is
found again by every distillation from the same teacher. Where training changes pictures more
(resized crops, RandAugment, erasing), the teacher looks at what the student sees, in every step
("function matching": Beyer et al., CVPR 2022).

Tensor shapes: N pictures of a split, V views, F features, C classes, S the teacher's input size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fpnas.code_version import code_version
from fpnas.stages.base import find_artifact
from fpnas.storage import stage_key

if TYPE_CHECKING:
    from torch import Tensor

    from fpnas.stages.base import StageContext
    from fpnas.stages.batches import Batches
    from fpnas.stages.training import Workbench
    from fpnas.storage import Artifact, ArtifactWriter
    from fpnas.training.loop import TrainingBatches
    from fpnas.training.teacher import Teacher

KIND = "teacher_logits"
T = TypeVar("T")
Look = Callable[["Tensor"], "Tensor"]
"""Maps uint8 pictures (B, 3, S, S) to what is wanted of the teacher, (B, F) or (B, C)."""


@dataclass
class Lesson:
    """What a student is told.

    Attributes:
        logits: Of the teacher on the training pictures, float16 (N, C).
        top1: The teacher's own accuracy on the validation pictures, seen in the same way.
        macs: Of the teacher for one picture.
        details: What else there is to say of it.
        look: Renews the logits of a batch, when pictures are changed too much to be looked at once.
        input_size: That ``look`` wants.
    """

    logits: Tensor
    top1: float
    macs: int
    details: Mapping[str, Any]
    look: Look | None = None
    input_size: int = 0


def renewed(batches: TrainingBatches, lesson: Lesson) -> Batches:
    """Training batches that the teacher looks at first, so that its logits are about them.

    Args:
        batches: Of the student.
        lesson: Its logits are overwritten; it has a ``look``.
    """
    import torch
    from torch.nn import functional as F

    from fpnas.stages.batches import Batches

    assert isinstance(batches, Batches)
    assert lesson.look is not None
    size, look = lesson.input_size, lesson.look

    class Renewed(Batches):
        def show(self, images: Tensor, rows: Tensor) -> None:
            shown = F.interpolate(images.float(), (size, size), mode="bilinear", antialias=True)
            with torch.inference_mode():
                told = look(shown.round().clamp(0, 255).to(torch.uint8))
            lesson.logits[rows] = told.half().cpu()

    return Renewed(batches.loader)


def kept(
    context: StageContext,
    bench: Workbench,
    identity: Mapping[str, Any],
    *,
    kind: str,
    code: str,
    make: Callable[[], T],
    write: Callable[[ArtifactWriter, T], None],
    read: Callable[[Artifact], T],
) -> T:
    """Finds what belongs to a teacher in the storage, or makes it and keeps it there.

    Args:
        context: Of the stage.
        bench: Its processes find it together, or make it together.
        identity: What it depends on besides the data set and the code.
        kind: Of the artifact.
        code: The module whose code it depends on.
        make: Makes it.
        write: Puts it into the artifact.
        read: Takes it out.
    """
    import torch

    from fpnas.parallel import Ranks

    parents = {"dataset": context.inputs["dataset"]}
    version = code_version(code)
    digests = {role: artifact.digest for role, artifact in parents.items()}
    key = stage_key("teacher", {"kind": kind, **identity}, digests, version)
    ranks = bench.ranks or Ranks()
    found = find_artifact(context.store, key)
    if not ranks.of_first(torch.tensor(float(found is not None))):
        started = time.monotonic()
        made = make()
        if ranks.rank > 0:
            return made
        writer = context.store.create(
            key, kind=kind, config=dict(identity), parents=parents, code_version=version
        )
        with writer:
            write(writer, made)
            writer.bill["seconds"] = round(time.monotonic() - started, 3)
            found = writer.commit()
    assert found is not None
    context.tracking.set_tags({f"fpnas.{kind}": found.uri})
    return read(found)


def kept_lesson(
    context: StageContext,
    bench: Workbench,
    identity: Mapping[str, Any],
    make: Callable[[], Lesson],
) -> Lesson:
    """Finds a lesson in the storage, or makes it and keeps it there; see :func:`kept`."""

    def write(writer: ArtifactWriter, lesson: Lesson) -> None:
        writer.write_tensors("logits.safetensors", {"logits": lesson.logits})
        figures = {"top1": lesson.top1, "macs": lesson.macs, "details": dict(lesson.details)}
        writer.write_json("teacher.json", figures)

    def read(artifact: Artifact) -> Lesson:
        logits = artifact.read_tensors("logits.safetensors")["logits"]
        return Lesson(logits, **artifact.read_json("teacher.json"))

    return kept(
        context, bench, identity, kind=KIND, code=__name__, make=make, write=write, read=read
    )


def teach(
    context: StageContext,
    bench: Workbench,
    teacher: Teacher,
    size: int,
    *,
    fitted: bool,
    once: bool = True,
) -> tuple[Lesson, Look]:
    """Has a teacher look at the pictures.

    Args:
        context: Of the stage.
        bench: The pictures, and what training does to them.
        teacher: On the device of the bench.
        size: Pixels that it is shown.
        fitted: Whether to fit a classifier of our classes to its features.
        once: Whether what it says now is what the student is told; else the logits are zero.

    Returns:
        The lesson, and how to look at a batch.

    Raises:
        FpnasError: The teacher knows no more than chance.
    """
    import torch

    from fpnas.cost import count_macs
    from fpnas.parallel import Ranks
    from fpnas.training.distillation import logit_accuracy
    from fpnas.training.fitted_head import FittedHead, cross_fitted_logits
    from fpnas.training.teachers import check_accuracy

    ranks = bench.ranks or Ranks()
    views = num_views(bench)
    num_classes = bench.dataset.num_classes
    look: Look = teacher.features if fitted else teacher.logits
    # The validation pictures first: a teacher that knows nothing is not asked about the others.
    val, labels = look_at(context, bench, look, "val", size, views)
    val, labels = val[labels >= 0], labels[labels >= 0]
    if not fitted:
        check_accuracy(logit_accuracy(val.mean(dim=1), labels), num_classes, teacher.name)
    if once or fitted:
        train, train_labels = look_at(context, bench, look, "train", size, views)
    else:
        num_train = len(bench.dataset.split("train"))
        train = torch.zeros(num_train, 1, num_classes, dtype=torch.float16)
    if fitted:
        context.progress(1, 1, "fitting the teacher's classifier")
        read = train_labels >= 0
        head = FittedHead.fit(train[read], train_labels[read], num_classes)
        crossed = cross_fitted_logits(train[read], train_labels[read], num_classes)
        train = crossed.new_zeros(len(read), *crossed.shape[1:])
        train[read], val = crossed, head(val)
        # The same arithmetic on another processor may end a little elsewhere.
        head = FittedHead(ranks.of_first(head.weight), ranks.of_first(head.bias))
        train, val = ranks.of_first(train), ranks.of_first(val)
        features = look

        def look(images: Tensor) -> Tensor:
            return head(features(images))

    top1 = logit_accuracy(val.mean(dim=1), labels)
    if fitted:
        check_accuracy(top1, num_classes, teacher.name)
    details = {"input_size": size, "views": views, "head": "fitted" if fitted else "own"}
    macs = count_macs(teacher.network, size)
    return Lesson(train.mean(dim=1).half(), top1, macs, details), look


def num_views(bench: Workbench) -> int:
    """Views of a picture: as it is, and mirrored when training flips."""
    return 2 if bench.augmentation(bench.config.recipe).flip else 1


def can_be_kept(bench: Workbench) -> bool:
    """Whether training changes pictures so little that the teacher need look only once."""
    done = bench.augmentation(bench.config.recipe)
    return done.min_area == 1.0 and not done.distorts


def look_at(
    context: StageContext,
    bench: Workbench,
    look: Look,
    split: Literal["train", "val"],
    size: int,
    views: int = 1,
) -> tuple[Tensor, Tensor]:
    """What a teacher says of a split, in its order, without augmentation.

    Each process shows it a share of the pictures, and all know the whole.

    Returns:
        Float32 (N, V, F) or (N, V, C), and the labels (N,). A picture that cannot be decoded, which
        training does not see either, has zeros and the label -1.
    """
    import torch

    from fpnas.data.augment import Augmentation
    from fpnas.data.loader import ImageLoader
    from fpnas.parallel import Ranks

    ranks = bench.ranks or Ranks()
    loader = ImageLoader(
        bench.dataset,
        split,
        batch_size=64,
        input_size=size,
        training=False,
        seed=0,
        augmentation=Augmentation(eval_crop=1.0),
        device=bench.device,
        rank=ranks.rank,
        world_size=ranks.size,
    )
    labels = torch.zeros(loader.num_images, dtype=torch.int64)  # one more than they are
    said: Tensor | None = None
    done = 0
    with torch.inference_mode():
        for batch in loader:
            seen = [batch.images, batch.images.flip(3)][:views]
            heard = torch.stack([look(view).float().cpu() for view in seen], dim=1)
            if said is None:
                said = torch.zeros(loader.num_images, *heard.shape[1:])
            said[batch.indices], labels[batch.indices] = heard, batch.labels + 1
            done = min(done + ranks.size * len(batch.labels), loader.num_images)
            context.progress(done, loader.num_images, f"teacher on {split}: {done} pictures")
    # A process may have had no picture; the first one always has.
    width = ranks.of_first(torch.tensor(said.shape[2] if said is not None else 0))
    whole = torch.zeros(loader.num_images, views, int(width)) if said is None else said.clone()
    return ranks.gather(whole), ranks.gather(labels) - 1
