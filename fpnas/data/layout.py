"""Where a picture's class and split come from: the folders it lies in.

The same rules hold for a folder, a tar archive and an S3 prefix, because all three are a list
of relative paths.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

SplitHint = Literal["train", "val"]

PICTURE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)
_VAL_NAMES = ("val", "valid", "validation")
_SPLIT_NAMES = frozenset({"train", "test", *_VAL_NAMES})


@dataclass(frozen=True, order=True)
class Entry:
    """One picture of a source, not read yet.

    Attributes:
        name: Path inside the source, with ``/``; unique in it.
        class_key: The class's folder name (a wnid in ImageNet).
        split: The official split, or None when the source is one pool that is to be split.
    """

    name: str
    class_key: str
    split: SplitHint | None


@dataclass(frozen=True)
class Layout:
    """What a list of paths holds.

    Attributes:
        entries: The pictures, sorted by name.
        ignored: How many files were passed over, by reason.
    """

    entries: tuple[Entry, ...]
    ignored: dict[str, int]


def printable(name: str) -> str:
    """Returns ``name`` with bytes that are not UTF-8 written as escapes, so it can be stored."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def arrange(paths: Iterable[str]) -> Layout:
    """Finds classes and splits in ImageNet layout or in one folder per class.

    ``train/<class>/*`` with ``val/<class>/*`` gives the official splits; ``<class>/*``, or
    ``train/<class>/*`` alone, gives one pool. Folders that everything lies in are stripped,
    so an archive may have any root. Pictures deeper inside a class folder belong to it.

    Args:
        paths: Relative paths with ``/``, in any order.

    Returns:
        The pictures and the number of files ignored by reason. No picture is not an error here.
    """
    ignored: Counter[str] = Counter()
    pictures: list[tuple[str, tuple[str, ...]]] = []
    for path in paths:
        parts = PurePosixPath(path).parts
        if any(part.startswith(".") or part == "__MACOSX" for part in parts):
            ignored["hidden file"] += 1
        elif PurePosixPath(path).suffix.lower() not in PICTURE_SUFFIXES:
            ignored["not a picture by its suffix"] += 1
        else:
            pictures.append((path, parts))
    depth = _common_depth([parts for _, parts in pictures])
    entries = []
    firsts = {parts[depth] for _, parts in pictures}
    split_folders = "train" in firsts and firsts <= _SPLIT_NAMES
    has_val = bool(firsts & set(_VAL_NAMES))
    for path, full_parts in pictures:
        parts = full_parts[depth:]
        split: SplitHint | None = None
        if split_folders:
            if parts[0] == "test":
                ignored["in the test folder"] += 1
                continue
            if has_val:
                split = "train" if parts[0] == "train" else "val"
            parts = parts[1:]
        if len(parts) < 2:
            ignored["not in a class folder"] += 1
            continue
        entries.append(Entry(path, parts[0], split))
    return Layout(tuple(sorted(entries, key=lambda entry: entry.name)), dict(ignored))


def _common_depth(all_parts: list[tuple[str, ...]]) -> int:
    """Counts the leading folders that every picture shares, above its class folder."""
    depth = 0
    while (
        all_parts
        and all(len(parts) > depth + 2 for parts in all_parts)
        and len({parts[depth] for parts in all_parts}) == 1
    ):
        depth += 1
    return depth
