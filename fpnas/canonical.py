"""JSON with one spelling for each value, so that a digest of it identifies the value."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: Any) -> str:
    """Spells ``value`` as JSON in exactly one way.

    Keys are sorted, there is no white space, and everything is ASCII. ``1`` and ``1.0`` are
    different values and stay different.

    Args:
        value: Mappings with string keys, lists, tuples, strings, numbers, booleans and None.

    Returns:
        The JSON text, without a final newline.

    Raises:
        ValueError: For NaN, an infinity, or a key that is not a string (JSON has neither).
        TypeError: For a value that JSON cannot hold, such as a path or a tensor.

    >>> canonical_json({"b": (1, 2), "a": None})
    '{"a":null,"b":[1,2]}'
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def digest(value: Any) -> str:
    """Returns the sha256 of the canonical JSON of ``value``, as 64 hexadecimal digits."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        for key in value:
            # json.dumps would turn 1 into "1" and let two keys collide.
            if not isinstance(key, str):
                raise ValueError(f"JSON keys are strings, not {key!r}")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
