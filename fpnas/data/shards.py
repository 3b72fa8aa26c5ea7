"""Shards: plain tar files in the WebDataset convention, written once and read by offset.

A picture is two members, ``<key>.cls`` (its class index in ASCII) and ``<key>.<jpg|png|webp>``.
Why this format: ``results/shard_formats.md``.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fpnas.errors import FpnasError, InputError

_TAR_BLOCK_BYTES = 512
_SHARD_FOLDER = "shards"
# An object store gives one connection a part of what it gives several.
_NUM_FETCHERS = 4


@dataclass(frozen=True)
class Shard:
    """One finished shard, as ``dataset.json`` lists it.

    Attributes:
        name: Path relative to the dataset, with ``/``.
        split: The split whose pictures it holds.
        num_images: Pictures in it.
        num_bytes: Size of the file.
        sha256: Digest of the file.
    """

    name: str
    split: str
    num_images: int
    num_bytes: int
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Returns the shard as a JSON object."""
        return asdict(self)


class ShardWriter:
    """Writes the pictures of one split into shards, in the order given.

    Equal input gives equal bytes: members have no time and a fixed owner.

    Args:
        folder: The dataset's folder.
        split: Goes into the shards' names.
        shard_bytes: A shard that has reached this size is closed.
    """

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self.shards: list[Shard] = []
        self._folder, self._split, self._shard_bytes = folder, split, shard_bytes
        self._num_images = 0
        self._num_in_shard = 0
        self._writer: Any = None
        (folder / _SHARD_FOLDER).mkdir(parents=True, exist_ok=True)

    def add(self, data: bytes, suffix: str, class_index: int) -> tuple[str, int]:
        """Appends a picture.

        Returns:
            The shard's name and the offset of the picture's first byte in it.
        """
        if self._writer is None:
            self._open()
        self._writer.write(
            {
                "__key__": f"{self._split}-{self._num_images:08d}",
                "cls": str(class_index).encode(),
                suffix: data,
            }
        )
        self._num_images += 1
        self._num_in_shard += 1
        # Members are sorted by suffix and "cls" comes first, so the picture is what ends here.
        padded = -(-len(data) // _TAR_BLOCK_BYTES) * _TAR_BLOCK_BYTES
        end = self._writer.tarstream.offset
        name = self._name()
        if end >= self._shard_bytes:
            self.close()
        return name, end - padded

    def close(self) -> None:
        """Finishes the shard being written, if any."""
        if self._writer is None:
            return
        self._writer.close()
        self._file.close()
        self._writer = None
        path = self._folder / self._name()
        with path.open("rb") as reader:
            digest = hashlib.file_digest(reader, "sha256").hexdigest()
        size = path.stat().st_size
        self.shards.append(Shard(self._name(), self._split, self._num_in_shard, size, digest))

    def _name(self) -> str:
        return f"{_SHARD_FOLDER}/{self._split}-{self._number:05d}.tar"

    def _open(self) -> None:
        from webdataset.writer import TarWriter  # type: ignore[import-untyped,unused-ignore]

        self._number = len(self.shards)
        self._num_in_shard = 0
        self._file = (self._folder / self._name()).open("wb")
        self._writer = TarWriter(
            self._file, user="", group="", mode=0o644, mtime=0, encoder=False, compress=False
        )


class ShardCache:
    """Keeps the most recently read shards on disk, never more than ``limit_bytes`` of them.

    A shard is released before the one that takes its place is fetched, so the limit holds at
    every moment. Threads may read at the same time; one of them fetches.

    Args:
        fetch: Returns a local, verified file for a shard's name. Called by several threads.
        release: Told the name of a shard that is no longer needed, so that its owner can
            delete the file. None when the files belong to somebody else and stay.
        sizes: Size in bytes of every shard by name.
        limit_bytes: The limit.

    Raises:
        InputError: When the largest shard does not fit.
    """

    def __init__(
        self,
        fetch: Callable[[str], Path],
        release: Callable[[str], None] | None,
        sizes: Mapping[str, int],
        limit_bytes: int,
    ) -> None:
        largest = max(sizes.values(), default=0)
        if largest > limit_bytes:
            raise InputError(
                "cache_bytes",
                limit_bytes,
                "is smaller than a shard",
                legal=f"{largest} or more",
                fix="raise it, or prepare the data with a smaller shard_bytes",
            )
        self.limit_bytes = limit_bytes
        self.num_fetched = 0
        self._fetch, self._release, self._sizes = fetch, release, sizes
        self._held: OrderedDict[str, Path] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """Bytes of the shards held now."""
        return sum(self._sizes[name] for name in self._held)

    def read(self, shard: str, offset: int, num_bytes: int) -> bytes:
        """Returns a picture's bytes, fetching its shard if it is not held.

        Raises:
            FpnasError: When the shard is shorter than the index says.
        """
        with self._lock:
            if shard in self._held:
                self._held.move_to_end(shard)
            else:
                self._make_room(self._sizes[shard])
                self._held[shard] = self._fetch(shard)
                self.num_fetched += 1
            # Opened under the lock: once open, the file can be read even if it is deleted.
            descriptor = os.open(self._held[shard], os.O_RDONLY)
        try:
            data = os.pread(descriptor, num_bytes, offset)
        finally:
            os.close(descriptor)
        if len(data) != num_bytes:
            raise FpnasError(f"{shard} ends before the picture at {offset} does")
        return data

    def hold(self, shards: Iterable[str]) -> None:
        """Fetches what is missing of shards that will be read next, several at a time.

        Of more than fit together the first are held.
        """
        with self._lock:
            missing, num_bytes = [], 0
            for name in dict.fromkeys(shards):
                num_bytes += self._sizes[name]
                if num_bytes > self.limit_bytes:
                    break
                if name in self._held:
                    self._held.move_to_end(name)
                else:
                    missing.append(name)
            if len(missing) < 2:
                return  # which `read` does
            self._make_room(sum(self._sizes[name] for name in missing))
            with ThreadPoolExecutor(_NUM_FETCHERS, "fetch") as fetchers:
                futures = {name: fetchers.submit(self._fetch, name) for name in missing}
            # Those that came are held, and so released, even where another one failed.
            for name, future in futures.items():
                if future.exception() is None:
                    self._held[name] = future.result()
                    self.num_fetched += 1
            for future in futures.values():
                future.result()

    def _make_room(self, num_bytes: int) -> None:
        while self._held and self.held_bytes + num_bytes > self.limit_bytes:
            name, _ = self._held.popitem(last=False)
            if self._release is not None:
                self._release(name)
