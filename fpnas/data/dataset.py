"""A prepared dataset, read through somebody else's verified files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pandas as pd

from fpnas.data.class_names import ClassInfo
from fpnas.data.prepare import DATASET_FILE, INDEX_FILE, SCHEMA_VERSION
from fpnas.data.shards import Shard, ShardCache
from fpnas.errors import FpnasError, InputError, closest

ReadableSplit = Literal["weights", "alpha", "train", "val"]
_MEMBERS: dict[str, tuple[str, ...]] = {
    "weights": ("weights",),
    "alpha": ("alpha",),
    "train": ("weights", "alpha"),
    "val": ("val",),
}
DEFAULT_CACHE_BYTES = 8 << 30


class Dataset:
    """A prepared dataset, read through ``fetch(name) -> local verified Path``.

    Args:
        fetch: Returns a local file for a name relative to the dataset, verified against the
            dataset's manifest. It is called for ``dataset.json`` and ``index.parquet`` once, and
            for a shard whenever it is needed and not held.
        cache_bytes: Most bytes of shards held at a time. The order of training pictures
            depends on it only when the split does not fit; see `fpnas.data.loader`.
        release: Told the name of a shard that is not held any longer, so that whoever fetched it
            can delete it. Without one the files stay and the limit is what this class asks for.

    Attributes:
        classes: The classes in the order of their indices.
        index: One row per picture; see `fpnas.data.prepare`.
        shards: The shards by name.
        source: The sort of source the pictures came from, such as ``digits`` or ``folder``.
        mean: Mean of the training pictures, RGB, 1 being white.
        std: Standard deviation of the same.
        cache: The shards held.

    Raises:
        InputError: When ``cache_bytes`` is smaller than a shard.
        FpnasError: When the dataset was written by another version of the schema.
    """

    def __init__(
        self,
        fetch: Callable[[str], Path],
        *,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        release: Callable[[str], None] | None = None,
    ) -> None:
        document = json.loads(fetch(DATASET_FILE).read_text(encoding="utf-8"))
        version = document.get("schema_version")
        if version != SCHEMA_VERSION:
            raise FpnasError(
                f"{DATASET_FILE} has schema version {version}, this version reads "
                f"{SCHEMA_VERSION}. Fix: prepare the data again."
            )
        self.classes = tuple(ClassInfo(**info) for info in document["classes"])
        self.source = str(document["source"])
        self.mean: tuple[float, float, float] = tuple(document["mean"])
        self.std: tuple[float, float, float] = tuple(document["std"])
        self.shards = {info["name"]: Shard(**info) for info in document["shards"]}
        self.index = pd.read_parquet(fetch(INDEX_FILE), engine="pyarrow")
        sizes = {shard.name: shard.num_bytes for shard in self.shards.values()}
        self.cache = ShardCache(fetch, release, sizes, cache_bytes)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    def split(self, name: ReadableSplit) -> pd.DataFrame:
        """Returns a split's rows of the index, numbered from 0.

        Args:
            name: ``weights``, ``alpha``, ``val``, or ``train``, which is weights and alpha.

        Raises:
            InputError: When there is no such split.
        """
        if name not in _MEMBERS:
            raise InputError("split", name, "is not a split", fix=closest(name, _MEMBERS))
        return self.index[self.index["split"].isin(_MEMBERS[name])].reset_index(drop=True)

    def split_bytes(self, name: ReadableSplit) -> int:
        """Returns the size of a split's shards in bytes."""
        members = _MEMBERS[name]
        return sum(shard.num_bytes for shard in self.shards.values() if shard.split in members)


def verify(data: bytes, sha256: str, shard: str) -> None:
    """Verifies one picture's bytes against the index.

    Raises:
        FpnasError: When they are not those that were prepared.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FpnasError(
            f"A picture of {shard} is not the one that was prepared (its sha256 differs). "
            "Fix: delete the local copy and fetch the shard again."
        )
