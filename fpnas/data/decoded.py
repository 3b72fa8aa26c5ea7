"""Decoded pictures of a split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fpnas.data.dataset import Dataset, verify
from fpnas.data.decode import Pixels, Target
from fpnas.data.order import Rows
from fpnas.data.unreadable import UnreadablePictures

Encoded = Sequence[bytes | None]
"""Encoded pictures of some rows; None for those that are kept decoded."""


class DecodedPictures:
    """Decodes pictures of a split, and keeps them when all of them fit into memory.

    Args:
        dataset: The dataset.
        table: The split's rows of the index.
        target: What pictures are decoded to.
        memory_bytes: Most bytes of decoded pictures to keep.

    Attributes:
        unreadable: The pictures that could not be decoded.
    """

    def __init__(
        self,
        dataset: Dataset,
        table: pd.DataFrame,
        *,
        target: Target,
        memory_bytes: int,
    ) -> None:
        self._dataset, self._target = dataset, target
        self.unreadable = UnreadablePictures(table["name"].tolist())
        self._shards = table["shard"].tolist()
        self._offsets = table["offset"].tolist()
        self._lengths = table["num_bytes"].tolist()
        self._digests = table["sha256"].tolist()
        self._shapes = [
            target.shape(width, height)
            for width, height in zip(table["width"].tolist(), table["height"].tolist(), strict=True)
        ]
        ends = np.cumsum([3 * height * width for height, width in self._shapes], dtype=np.int64)
        self._starts = [0, *ends.tolist()]
        self._kept: Pixels | None = None
        if self._starts[-1] <= memory_bytes:
            # The pages of an empty array are not taken before they are written.
            self._kept = np.empty(self._starts[-1], np.uint8)
        self._is_kept = [False] * len(table)

    def read(self, rows: Rows) -> Encoded:
        """Reads what has to be decoded.

        One thread at a time may call this, in the order of the batches: threads would otherwise
        go back and forth between shards that do not fit into the cache together.
        """
        cache, places = self._dataset.cache, rows.tolist()
        cache.hold(self._shards[row] for row in places if not self._is_kept[row])
        return [
            None
            if self._is_kept[row]
            else cache.read(self._shards[row], self._offsets[row], self._lengths[row])
            for row in places
        ]

    def decode(self, rows: Rows, encoded: Encoded) -> list[Pixels]:
        """Decodes what `read` returned for these rows. Threads may call this at the same time.

        Returns:
            Of each row uint8, (height, width, 3), not to be written to; black where it is
            unreadable.

        Raises:
            FpnasError: When a picture is not the one that was prepared, or too many are unreadable.
        """
        return [self._decode(row, data) for row, data in zip(rows.tolist(), encoded, strict=True)]

    def _decode(self, row: int, data: bytes | None) -> Pixels:
        if data is None:
            return self._view(row)
        verify(data, self._digests[row], self._shards[row])
        try:
            pixels = self._target.decode(data)
            if pixels.shape[:2] != self._shapes[row]:
                raise ValueError("it has not the size that was prepared")
        # A decoder may raise anything.
        except Exception as error:
            self.unreadable.add(row, f"{type(error).__name__}: {error}")
            return np.zeros((*self._shapes[row], 3), np.uint8)
        if self._kept is not None:
            # Two threads may have the same row at the end of an epoch; they write the same.
            self._view(row)[...] = pixels
            self._is_kept[row] = True
        return pixels

    def _view(self, row: int) -> Pixels:
        assert self._kept is not None
        return self._kept[self._starts[row] : self._starts[row + 1]].reshape(*self._shapes[row], 3)
