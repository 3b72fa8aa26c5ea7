"""Pictures that were prepared but cannot be decoded: passed over, counted and named."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from fpnas.errors import FpnasError

MAX_FRACTION = 0.01
"""Of a split that may be unreadable, and one picture at least."""

_LOG = logging.getLogger("fpnas")


class UnreadablePictures:
    """The pictures of a split that could not be decoded. Threads may add to it.

    Preparation has decoded every picture in full, so one that fails has met another version of a
    decoder, or too little memory.

    Args:
        names: Of the split's pictures, by row.

    Attributes:
        reasons: Why, by row.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._lock = names, Lock()
        self.reasons: dict[int, str] = {}

    def add(self, row: int, reason: str) -> None:
        """Names a picture in the log, once.

        Raises:
            FpnasError: There are too many of them.
        """
        limit = max(1, int(MAX_FRACTION * len(self._names)))
        with self._lock:
            if row in self.reasons:
                return
            self.reasons[row] = reason
            count = len(self.reasons)
        _LOG.warning("%s cannot be decoded and is passed over: %s", self._names[row], reason)
        if count > limit:
            raise FpnasError(
                f"{count} of {len(self._names)} pictures cannot be decoded, the last one "
                f"{self._names[row]} ({reason}). More than {limit} are not passed over. "
                "Fix: run `fpnas doctor`, or prepare the data again."
            )

    def places(self, rows: npt.NDArray[np.int64], *, fill: bool) -> npt.NDArray[np.int64] | None:
        """Which places of a batch to take.

        Args:
            rows: Of the batch, (B,).
            fill: Put the next readable picture into an unreadable one's place, so that the batch
                stays as large; else leave the place out.

        Returns:
            (B,), or fewer; None when all pictures are readable.

        Raises:
            FpnasError: A batch to fill has no readable picture.
        """
        if not self.reasons:
            return None
        readable = np.array([row not in self.reasons for row in rows.tolist()])
        if readable.all():
            return None
        good = np.flatnonzero(readable)
        if not fill:
            return good
        if not len(good):
            raise FpnasError("No picture of a batch can be decoded. Fix: raise the batch size.")
        following = np.searchsorted(good, np.arange(len(rows)))
        return good[following % len(good)]

    def state_dict(self) -> dict[str, str]:
        """The reasons in the order of the rows, for a checkpoint."""
        return {str(row): self.reasons[row] for row in sorted(self.reasons)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what was found before."""
        self.reasons.update({int(row): reason for row, reason in state.items()})
