"""The memory allocator of a process that computes. Light to import."""

from __future__ import annotations

import ctypes
import sys

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER_BYTES = 2**31 - 1


def keep_freed_memory() -> bool:
    """Lets glibc's allocator keep the memory of freed tensors for the next ones.

    By default it returns every large block to the system, which clears it page by page when it is
    asked for again: a training step with tensors above 32 MiB takes about a seventh longer so. The
    peak of memory stays the same.

    Returns:
        Whether the allocator could be told; only Linux's glibc can.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    return all(mallopt(name, _NEVER_BYTES) for name in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
