"""Weights and class names in a user's own files; nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fpnas.errors import InputError, first_line


def read_state(path: Path) -> dict[str, Any]:
    """The state dict in a file: safetensors, or what torch saves, alone or under ``state_dict``.

    Raises:
        InputError: It holds something else.
    """
    import pickle

    import safetensors
    import safetensors.torch
    import torch

    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise InputError(
            "distill.teacher",
            path,
            f"holds no plain weights ({first_line(error)})",
            legal="safetensors, or a state dict that torch.load reads with weights_only=True",
            fix="save network.state_dict() alone",
        ) from error
    inner = state.get("state_dict", state.get("model", state)) if isinstance(state, dict) else None
    if not isinstance(inner, dict):
        raise InputError(
            "distill.teacher", path, "holds no state dict", fix="save network.state_dict()"
        )
    return inner


def read_classes(path: str | None) -> list[str] | None:
    """The list of names in a JSON file; None without a file.

    Raises:
        InputError: It holds something else.
    """
    if path is None:
        return None
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            "distill.teacher_classes", path, f"cannot be read: {error}", fix="correct it"
        ) from error
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise InputError(
            "distill.teacher_classes",
            path,
            "is not a list of names",
            fix='write ["name of output 0", "name of output 1", ...]',
        )
    return found
