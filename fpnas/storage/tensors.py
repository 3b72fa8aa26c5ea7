"""Named tensors as safetensors bytes: the same tensors always give the same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# One key only: safetensors writes several in random order.
META_KEY = "fpnas"


def encode(tensors: Mapping[str, torch.Tensor], meta: str = "") -> bytes:
    """Spells tensors of any shape, layout and device as safetensors.

    Args:
        tensors: By name. Views, aliases and non-contiguous tensors are written out in full.
        meta: Text for the header; nothing when empty.
    """
    import safetensors.torch  # lazily: it imports torch, which takes seconds

    plain = {name: _own_memory(tensor) for name, tensor in sorted(tensors.items())}
    return safetensors.torch.save(plain, {META_KEY: meta} if meta else None)


def decode(data: bytes) -> tuple[dict[str, torch.Tensor], str]:
    """Reads what :func:`encode` wrote.

    Returns:
        The tensors on the CPU by name, and the header's text.

    Raises:
        ValueError: If it is not whole.
    """
    import safetensors
    import safetensors.torch

    try:
        tensors = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"is not whole safetensors ({error})") from error
    return tensors, str(header(data).get("__metadata__", {}).get(META_KEY, ""))


def header(data: bytes) -> dict[str, Any]:
    """Returns the header of safetensors bytes.

    Raises:
        ValueError: If it is not whole.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 + length:
        raise ValueError("is shorter than its header says")
    parsed = json.loads(data[8 : 8 + length])
    if not isinstance(parsed, dict):
        raise ValueError("has a header that is not an object")
    return parsed


def _own_memory(tensor: torch.Tensor) -> torch.Tensor:
    """A CPU copy that shares no memory (safetensors refuses tensors that do)."""
    import torch

    return tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format)
