"""Checkpoints: the newest state of a computation that may be cut short at any point."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fpnas.canonical import canonical_json
from fpnas.storage import tensors as tensor_codec
from fpnas.storage.errors import ArtifactCorruptError, ObjectMissingError

if TYPE_CHECKING:
    import torch

    from fpnas.storage.store import Store

_LOG = logging.getLogger(__name__)
_NO_HASH = b"0" * 64
_MARK = f'"{tensor_codec.META_KEY}":"'.encode()


class CheckpointSlot:
    """Two objects that are written in turn, so that one whole state is always there.

    Each is safetensors; its header holds a sha256 over the whole object (with the place of the
    hash itself filled with zeros), a sequence number, and the caller's JSON. Nothing is
    unpickled. One computation at a time may write to a slot.

    Args:
        store: Where the checkpoints are.
        key: A name that stays the same when the computation is started again.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._keys = tuple(f"checkpoints/{key}/{side}.safetensors" for side in "ab")
        self._newest: tuple[int, int] | None = None  # sequence number, index into _keys

    @property
    def uri(self) -> str:
        """The address of the slot."""
        return self._store.uri(self._keys[0].rpartition("/")[0])

    def save(self, tensors: Mapping[str, torch.Tensor], meta: Any) -> None:
        """Writes a state over the older of the two.

        Args:
            tensors: By name; any shape, type and layout.
            meta: JSON.

        Raises:
            ValueError: If ``meta`` holds NaN or an infinity.
            StorageError: If the storage fails; the state saved before is still there.
        """
        if self._newest is None:
            self.load()
        sequence, side = self._newest or (0, 1)
        data = _seal(tensors, {"meta": meta, "sequence": sequence + 1})
        self._store.put_bytes(self._keys[1 - side], data)
        self._newest = (sequence + 1, 1 - side)

    def load(self) -> tuple[dict[str, torch.Tensor], Any] | None:
        """Returns the newest whole state, or None when there is none.

        A damaged object is reported as a warning when the other one can stand in for it.

        Raises:
            ArtifactCorruptError: If both objects are there and both are damaged.
            StorageError: If the storage fails.
        """
        found: list[tuple[int, int, dict[str, torch.Tensor], Any]] = []
        damaged: list[str] = []
        for side, key in enumerate(self._keys):
            try:
                tensors, header = _unseal(self._store.get_bytes(key))
            except ObjectMissingError:
                continue
            except ValueError as error:
                damaged.append(f"{self._store.uri(key)} {error}")
                continue
            found.append((header["sequence"], side, tensors, header["meta"]))
        if len(damaged) == len(self._keys):
            raise ArtifactCorruptError(
                self.uri,
                f"holds no whole checkpoint ({'; '.join(damaged)})",
                fix=f"delete {self.uri} to start again from the beginning",
            )
        for problem in damaged:
            _LOG.warning("checkpoint %s; going on from the one before it", problem)
        if not found:
            return None
        sequence, side, newest, meta = max(found, key=lambda state: state[0])
        self._newest = (sequence, side)
        return newest, meta

    def delete(self) -> None:
        """Deletes both objects."""
        for key in self._keys:
            self._store.delete(key)
        self._newest = None


def _seal(tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any]) -> bytes:
    data = tensor_codec.encode(tensors, meta=_NO_HASH.decode() + canonical_json(header))
    start = data.index(_MARK) + len(_MARK)
    checksum = hashlib.sha256(data).hexdigest().encode()
    return b"".join((data[:start], checksum, data[start + len(checksum) :]))


def _unseal(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    start = data.find(_MARK) + len(_MARK)
    stated = data[start : start + len(_NO_HASH)]
    hashed = hashlib.sha256(data[:start])
    hashed.update(_NO_HASH)
    hashed.update(memoryview(data)[start + len(_NO_HASH) :])
    if hashed.hexdigest().encode() != stated:
        raise ValueError("does not match its sha256")
    tensors, meta = tensor_codec.decode(data)
    header: dict[str, Any] = json.loads(meta[len(_NO_HASH) :])
    return tensors, header
