"""Which pictures are taken, and which of the three splits each goes to."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fpnas.data.layout import Entry
from fpnas.data.options import PrepareOptions
from fpnas.errors import InputError, closest

SplitName = Literal["weights", "alpha", "val"]
SPLIT_NAMES: tuple[SplitName, ...] = ("weights", "alpha", "val")
# Streams of random numbers for different ends, so that none repeats another's draws.
_SUBSET, _PICTURES = 1, 2


@dataclass(frozen=True)
class Plan:
    """What a preparation will do.

    Attributes:
        class_keys: The classes taken, sorted; the position is the class index.
        splits: The pictures of each split, in the order they are to be stored: shuffled, so
            that any run of neighbours is a fair sample of the classes.
        unused_val_classes: Classes that only the official validation pictures have.
    """

    class_keys: tuple[str, ...]
    splits: dict[SplitName, tuple[Entry, ...]]
    unused_val_classes: tuple[str, ...]


def make_plan(entries: Sequence[Entry], options: PrepareOptions) -> Plan:
    """Chooses classes and pictures, and splits each class by itself.

    What becomes of a class depends on the seed and on that class's pictures alone, so taking
    more classes moves no picture of the others to another split.

    Args:
        entries: Every picture of the source.
        options: Classes, caps, fractions and the seed.

    Raises:
        InputError: When there are no pictures, too few classes, an unknown class, or a class
            with too few pictures for the splits.
    """
    official = any(entry.split is not None for entry in entries)
    pool: dict[str, list[Entry]] = defaultdict(list)
    val: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.name):
        (val if entry.split == "val" else pool)[entry.class_key].append(entry)
    class_keys = _choose_classes(sorted(pool), options)
    chosen: dict[SplitName, list[Entry]] = {name: [] for name in SPLIT_NAMES}
    for key in class_keys:
        rng = np.random.default_rng([_PICTURES, options.seed, _number(key)])
        train = _shuffled(pool[key], rng, options.max_images_per_class)
        if official:
            _require(key, len(train), 2, "training", options)
            _require(key, len(val[key]), 1, "validation", options)
            chosen["val"] += _shuffled(val[key], rng, options.max_images_per_class)
        else:
            _require(key, len(train), 3, "", options)
            num_val = _part(len(train), options.val_fraction, leave=2)
            chosen["val"] += train[:num_val]
            train = train[num_val:]
        num_alpha = _part(len(train), options.alpha_fraction, leave=1)
        chosen["alpha"] += train[:num_alpha]
        chosen["weights"] += train[num_alpha:]
    rng = np.random.default_rng([_PICTURES, options.seed])
    splits = {name: tuple(_shuffled(chosen[name], rng)) for name in SPLIT_NAMES}
    return Plan(tuple(class_keys), splits, tuple(sorted(set(val) - set(pool))))


def _choose_classes(known: list[str], options: PrepareOptions) -> list[str]:
    if not known:
        raise InputError(
            "DATA",
            options.data,
            "holds no pictures in class folders",
            legal="train/<class>/* with val/<class>/*, or <class>/*",
            fix="put the pictures of each class into a folder named after it",
        )
    if len(known) == 1:
        raise InputError(
            "DATA",
            options.data,
            f"has only one class, {known[0]}",
            legal="2 or more classes",
            fix="give the folder that holds all class folders",
        )
    if options.class_names is not None:
        for name in options.class_names:
            if name not in known:
                near = closest(name, known) if len(known) <= 30 else _nearest(name, known)
                raise InputError("class_names", name, "is not a class of the data", fix=near)
        return sorted(set(options.class_names))
    if options.num_classes is None:
        return known
    if options.num_classes > len(known):
        raise InputError(
            "num_classes",
            options.num_classes,
            "is more than the data has",
            legal=f"2 to {len(known)}",
            fix=f"use at most {len(known)}",
        )
    rng = np.random.default_rng([_SUBSET, options.seed])
    return sorted(known[i] for i in rng.choice(len(known), options.num_classes, replace=False))


def _nearest(name: str, known: list[str]) -> str:
    hint = closest(name, known)
    # With nothing similar the hint lists every class; a thousand wnids help nobody.
    return hint if hint.startswith("did you mean") else f"use class names such as {known[0]}"


def _number(key: str) -> int:
    """Returns a number that stands for a class in the seed of its random stream."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def _shuffled(
    entries: Sequence[Entry], rng: np.random.Generator, cap: int | None = None
) -> list[Entry]:
    return [entries[i] for i in rng.permutation(len(entries))[:cap]]


def _part(count: int, fraction: float, *, leave: int) -> int:
    """Rounds a part of a class, keeping at least one on its side and ``leave`` on the other."""
    return min(max(round(count * fraction), 1), count - leave)


def _require(key: str, count: int, least: int, side: str, options: PrepareOptions) -> None:
    if count >= least:
        return
    needed = {2: "one each for weights and alpha", 1: "one", 3: "one each for weights, alpha, val"}
    what = f"{side} pictures" if side else "pictures"
    raise InputError(
        "DATA",
        options.data,
        f"has too few {what} for the split: class {key} has {count}",
        legal=f"{least} or more {what} a class ({needed[least]})",
        fix=f"add pictures to {key}, or leave the class out with class_names",
    )


def count_by_class(entries: Sequence[Entry]) -> dict[str, int]:
    """Counts pictures by class key."""
    return dict(Counter(entry.class_key for entry in entries))
