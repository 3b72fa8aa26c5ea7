"""Decoded pictures of a split."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from fpnas.data.augment import Pictures
from fpnas.data.dataset import Dataset, verify
from fpnas.data.order import Rows
from fpnas.data.pictures import decode


class DecodedPictures:
    """Decodes pictures of a split, and keeps them when all of them fit into memory.

    One thread at a time may call `read`; it spreads the decoding over a pool.

    Args:
        dataset: The dataset.
        table: The split's rows of the index.
        size: Working size, pixels.
        crop: See `fpnas.data.pictures.decode`.
        memory_bytes: Most bytes of decoded pictures to keep.
    """

    def __init__(
        self,
        dataset: Dataset,
        table: pd.DataFrame,
        *,
        size: int,
        crop: float | None,
        memory_bytes: int,
    ) -> None:
        self._dataset, self._size, self._crop = dataset, size, crop
        self._shards = table["shard"].to_numpy(object)
        self._offsets = table["offset"].to_numpy(np.int64)
        self._lengths = table["num_bytes"].to_numpy(np.int64)
        self._digests = table["sha256"].to_numpy(object)
        self._kept: Pictures | None = None
        if len(table) * 3 * size * size <= memory_bytes:
            # The pages of an empty array are not taken before they are written.
            self._kept = np.empty((len(table), size, size, 3), np.uint8)
        self._is_kept = np.zeros(len(table), np.bool_)

    def read(self, rows: Rows, decoders: ThreadPoolExecutor, num_parts: int) -> Pictures:
        """Returns the pictures of rows.

        Args:
            rows: Rows of the split, (B,).
            decoders: Threads.
            num_parts: Into how many parts to cut the work.

        Returns:
            uint8, (B, size, size, 3).

        Raises:
            FpnasError: When a picture is not the one that was prepared.
        """
        target = self._kept
        if target is None:
            target = np.empty((len(rows), self._size, self._size, 3), np.uint8)
            self._decode(rows, np.arange(len(rows)), target, decoders, num_parts)
            return target
        missing = rows[~self._is_kept[rows]]
        self._decode(missing, missing, target, decoders, num_parts)
        self._is_kept[missing] = True
        return target[rows]

    def _decode(
        self,
        rows: Rows,
        places: Rows,
        target: Pictures,
        decoders: ThreadPoolExecutor,
        num_parts: int,
    ) -> None:
        # Read in the order of the rows, one thread: a batch on the border of two windows would
        # otherwise go back and forth between shards that do not fit together.
        encoded = [
            self._dataset.cache.read(
                self._shards[row], int(self._offsets[row]), int(self._lengths[row])
            )
            for row in rows
        ]

        def work(part: int) -> None:
            for i in range(part, len(rows), num_parts):
                verify(encoded[i], self._digests[rows[i]], self._shards[rows[i]])
                target[places[i]] = decode(encoded[i], self._size, self._crop)

        if len(rows):
            list(decoders.map(work, range(num_parts)))
