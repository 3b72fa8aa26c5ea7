"""Objects held against a package's models, which drop what they do not know without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def check_fields(manifest: Mapping[str, Any], back: Mapping[str, Any], kind: str) -> None:
    """Checks that nothing of an object was lost on its way through a model.

    Args:
        manifest: The object.
        back: What the model gives back of it.
        kind: Its name in the message.

    Raises:
        ValueError: Naming the fields that the model does not have.
    """
    lost = sorted(set(_leaves(manifest)) - set(_leaves(back)))
    if lost:
        raise ValueError(f"{kind} has no such fields: {', '.join(lost)}")


def _leaves(value: Any, path: str = "") -> list[str]:
    """Every path of an object with what stands there."""
    if isinstance(value, Mapping) and value:
        return [leaf for key, v in value.items() for leaf in _leaves(v, f"{path}.{key}")]
    if isinstance(value, list) and value:
        return [leaf for i, v in enumerate(value) for leaf in _leaves(v, f"{path}[{i}]")]
    return [f"{path.lstrip('.')}={value}"]
