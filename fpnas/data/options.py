"""What a preparation is told."""

from __future__ import annotations

from dataclasses import dataclass

from fpnas.errors import InputError

MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class PrepareOptions:
    """What to prepare, and how.

    Attributes:
        data: What to read; see `fpnas.data.sources`.
        num_classes: Take this many classes, drawn with ``seed``. None takes all.
        class_names: Take these classes, by folder name or wnid. None takes all.
        seed: Decides the class subset, the splits and the order in the shards.
        val_fraction: Part of each class that becomes validation pictures, when the source has
            no official split.
        alpha_fraction: Part of each class's training pictures that trains the architecture
            distribution; the rest trains the weights. The paper halves them.
        max_images_per_class: Cap on the pictures of a class, drawn with ``seed``; with an
            official split it holds for each side.
        max_edge: Pictures with a longer edge are made smaller, pixels. None stores them as
            they are.
        shard_bytes: Size at which the next shard is begun.
        max_quarantined_fraction: More unusable pictures than this stop the preparation.

    Raises:
        InputError: When a value is outside its range.
    """

    data: str
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    seed: int = 0
    val_fraction: float = 0.2
    alpha_fraction: float = 0.5
    max_images_per_class: int | None = None
    max_edge: int | None = None
    shard_bytes: int = 64 * MEBIBYTE
    max_quarantined_fraction: float = 0.1

    def __post_init__(self) -> None:
        for field in ("val_fraction", "alpha_fraction"):
            if not 0.0 < getattr(self, field) < 1.0:
                self._refuse(
                    field, "is no part", "greater than 0 and less than 1", "use 0.2 to 0.5"
                )
        if not 0.0 <= self.max_quarantined_fraction <= 1.0:
            self._refuse("max_quarantined_fraction", "is no part", "0 to 1", "use 0.1")
        if self.seed < 0:
            self._refuse("seed", "is negative", "0 or more", "use 0")
        if self.num_classes is not None and self.num_classes < 2:
            self._refuse("num_classes", "is too few to classify", "2 or more", "use 2 or more")
        if self.num_classes is not None and self.class_names is not None:
            self._refuse("num_classes", "is given together with class_names", "", "give one")
        if self.class_names is not None and len(set(self.class_names)) < 2:
            self._refuse("class_names", "are too few to classify", "2 or more", "name another")
        if self.max_images_per_class is not None and self.max_images_per_class < 2:
            self._refuse("max_images_per_class", "is too few to split", "2 or more", "use more")
        if self.max_edge is not None and self.max_edge < 8:
            self._refuse("max_edge", "leaves no picture", "8 or more pixels", "use 64 or more")
        if self.shard_bytes < MEBIBYTE:
            self._refuse("shard_bytes", "makes too many files", "1048576 or more", "use 67108864")

    def _refuse(self, field: str, problem: str, legal: str, fix: str) -> None:
        raise InputError(field, getattr(self, field), problem, legal=legal, fix=fix)
