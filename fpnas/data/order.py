"""The order in which a loader goes through a split, from (seed, epoch)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
_SHUFFLE = 3


def epoch_order(
    shard_of_row: Rows,
    shard_bytes: Rows,
    window_bytes: int,
    *,
    seed: int,
    epoch: int,
) -> Rows:
    """Shuffles the rows of a split for one epoch.

    A split that fits into the window is permuted uniformly. One that does not fit is gone
    through in windows: the shards are shuffled, neighbours that fit together form a window, and
    rows are permuted within it. So every shard is fetched once an epoch, and because pictures
    were shuffled over the shards when they were prepared, each window is a fair sample.

    Args:
        shard_of_row: Number of the shard of every row, (N,).
        shard_bytes: Size of every shard by its number.
        window_bytes: Bytes of shards that may be held at a time; 0 for all.
        seed: The run's seed.
        epoch: The epoch.

    Returns:
        A permutation of 0..N-1.
    """
    rng = np.random.default_rng([_SHUFFLE, seed, epoch])
    if window_bytes == 0 or shard_bytes.sum() <= window_bytes:
        return rng.permutation(len(shard_of_row))
    windows: list[list[int]] = [[]]
    free = window_bytes
    for shard in rng.permutation(len(shard_bytes)).tolist():
        size = int(shard_bytes[shard])
        if size > free and windows[-1]:
            windows.append([])
            free = window_bytes
        windows[-1].append(shard)
        free -= size
    rows = [rng.permutation(np.flatnonzero(np.isin(shard_of_row, window))) for window in windows]
    return np.concatenate(rows)


def num_training_batches(num_rows: int, batch_size: int) -> int:
    """Returns the batches of an epoch: whole ones, or a single smaller one if there is none."""
    return max(num_rows // batch_size, 1)


def training_batch(
    order: Rows, position: int, *, batch_size: int, rank: int, world_size: int
) -> Rows:
    """Returns one rank's part of a step.

    A step takes the same rows however many ranks share them; each gets neighbours, and as many
    as the others or one less.

    Args:
        order: The epoch's order, (N,).
        position: The step in the epoch.
        batch_size: Rows of a step.
        rank: This rank.
        world_size: Ranks in all; at most N and ``batch_size``.
    """
    rows = order[position * batch_size :][:batch_size]
    start, stop = (len(rows) * number // world_size for number in (rank, rank + 1))
    return rows[start:stop]
