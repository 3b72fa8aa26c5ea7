"""Turns nested state (modules, optimisers, random generators) into named tensors and JSON.

Checkpoints are safetensors plus JSON, so that nothing read back is ever unpickled.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

_TENSOR, _MAP, _LIST = "tensor", "map", "list"


def pack(tree: Any) -> tuple[dict[str, Tensor], Any]:
    """Splits a tree of dicts, lists, scalars and tensors into tensors and a JSON structure.

    The tensors share memory with the state: store them before it goes on.

    Returns:
        The tensors by path, and the structure that :func:`unpack` needs. Dict keys may be strings
        or integers, as in the state of an optimiser.

    Raises:
        TypeError: A leaf that is neither a tensor nor a JSON scalar.
    """
    tensors: dict[str, Tensor] = {}

    def walk(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            name = path
            while name in tensors:  # keys 0 and "0", or "a.b" and a dict in a dict
                name += "'"
            tensors[name] = node.detach()
            return {_TENSOR: name}
        if isinstance(node, dict):
            return {_MAP: [[key, walk(value, f"{path}.{key}")] for key, value in node.items()]}
        if isinstance(node, list | tuple):
            return {_LIST: [walk(value, f"{path}.{i}") for i, value in enumerate(node)]}
        if node is None or isinstance(node, bool | int | float | str):
            return node
        raise TypeError(f"{path} is a {type(node).__name__}, which cannot be stored")

    return tensors, walk(tree, "state")


def unpack(tensors: dict[str, Tensor], structure: Any) -> Any:
    """Puts back together what :func:`pack` split. Tuples come back as lists."""
    if not isinstance(structure, dict):
        return structure
    if _TENSOR in structure:
        return tensors[structure[_TENSOR]]
    if _MAP in structure:
        return {key: unpack(tensors, value) for key, value in structure[_MAP]}
    return [unpack(tensors, value) for value in structure[_LIST]]
