"""From any source to a dataset: shards, an index, and a report of what was not taken.

| file | what |
|---|---|
| ``dataset.json`` | classes, counts, shards, mean and deviation, what was converted or ignored |
| ``index.parquet`` | a row per picture: name, class, split, size, sha256, shard and offset |
| ``quarantine.csv`` | the pictures that cannot be used, with the reason |
| ``shards/<split>-<number>.tar`` | the pictures; see `fpnas.data.shards` |

Equal input, options and package versions give equal bytes in every file.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import tempfile
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fpnas.data.class_names import ClassInfo, name_classes
from fpnas.data.layout import Entry
from fpnas.data.options import PrepareOptions
from fpnas.data.pictures import Picture, PictureError, prepare_picture
from fpnas.data.shards import Shard, ShardWriter
from fpnas.data.source import AbstractSource
from fpnas.data.sources import locate
from fpnas.data.splits import SPLIT_NAMES, Plan, make_plan
from fpnas.errors import FpnasError, InputError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SCHEMA_VERSION = 1
DATASET_FILE = "dataset.json"
INDEX_FILE = "index.parquet"
QUARANTINE_FILE = "quarantine.csv"
_NUM_THREADS = 4
_NUM_EXAMPLES = 5
_COLUMNS = {
    "name": "str",
    "class_index": "int32",
    "class_key": "str",
    "split": "str",
    "width": "int32",
    "height": "int32",
    "num_bytes": "int64",
    "sha256": "str",
    "shard": "str",
    "offset": "int64",
    "converted_from": "str",
}


@dataclass(frozen=True)
class DatasetSummary:
    """What a preparation made.

    Attributes:
        source: The sort of source: folder, tar, ilsvrc, s3, digits, cifar10, imagenette.
        classes: The classes in the order of their indices.
        counts: Pictures by split.
        num_bytes: Bytes of all shards.
        converted: Converted pictures by what they were.
        num_quarantined: Pictures that cannot be used.
        ignored: Files passed over, by reason.
        num_duplicates: Validation pictures whose very bytes are also a training picture's.
        mean: Of the training pictures, RGB, 1 being white; every picture weighs the same.
        std: Standard deviation of the same.
    """

    source: str
    classes: tuple[ClassInfo, ...]
    counts: dict[str, int]
    num_bytes: int
    converted: dict[str, int]
    num_quarantined: int
    ignored: dict[str, int]
    num_duplicates: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass
class _Work:
    """What accumulates while pictures are written."""

    rows: list[tuple[Any, ...]] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    converted: Counter[str] = field(default_factory=Counter)
    moments: Any = field(default_factory=lambda: np.zeros((2, 3)))


def check(
    options: PrepareOptions, s3_client: S3Client | None = None
) -> tuple[ClassInfo, ...] | None:
    """Checks what can be checked in seconds, before any work and without writing.

    Archives in S3, large compressed archives and downloads are only looked for; what is in them
    is checked at the start of `prepare`, again before anything is written.

    Returns:
        The classes, or None where they are not known yet.

    Raises:
        InputError: When the data or an option cannot be used.
    """
    located = locate(options.data, s3_client)
    if not located.is_cheap:
        return None
    with tempfile.TemporaryDirectory() as scratch, located.open(Path(scratch)) as source:
        return name_classes(make_plan(source.entries, options).class_keys, source.class_names)


def prepare(
    options: PrepareOptions,
    output_dir: Path,
    s3_client: S3Client | None = None,
    progress: Callable[[int, int], None] | None = None,
    scratch_dir: Path | None = None,
) -> DatasetSummary:
    """Prepares a dataset into an empty or new folder.

    Args:
        options: What to prepare.
        output_dir: Where to. After a failure nothing of the dataset is left in it.
        s3_client: For ``s3://`` data.
        progress: Called with the pictures done and the pictures in all.
        scratch_dir: Keeps downloads between preparations; a temporary folder when None.

    Raises:
        InputError: When the data or an option cannot be used; nothing has been written then.
        FpnasError: When too many pictures are unusable, or reading or downloading fails.
    """
    if output_dir.exists() and any(output_dir.iterdir()):
        raise InputError("output_dir", output_dir, "is not empty", fix="give a new folder")
    located = locate(options.data, s3_client)
    existed = output_dir.exists()
    with tempfile.TemporaryDirectory() as temporary:
        scratch = scratch_dir or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        with located.open(scratch) as source:
            plan = make_plan(source.entries, options)
            try:
                return _write(source, plan, options, output_dir, progress)
            except BaseException:
                _remove(output_dir, keep_folder=existed)
                raise


def _remove(output_dir: Path, *, keep_folder: bool) -> None:
    shutil.rmtree(output_dir, ignore_errors=True)
    if keep_folder:
        output_dir.mkdir(parents=True, exist_ok=True)


def _write(
    source: AbstractSource,
    plan: Plan,
    options: PrepareOptions,
    output_dir: Path,
    progress: Callable[[int, int], None] | None,
) -> DatasetSummary:
    output_dir.mkdir(parents=True, exist_ok=True)
    work = _Work()
    # Pillow warns about damaged metadata from worker threads; what matters of it is quarantined.
    with warnings.catch_warnings(), ThreadPoolExecutor(_NUM_THREADS) as pool:
        warnings.simplefilter("ignore")
        _write_pictures(source, plan, options, output_dir, work, pool, progress)
    index = pd.DataFrame(work.rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    _check_quarantine(index, plan, work, options)
    index.to_parquet(output_dir / INDEX_FILE, engine="pyarrow", index=False)
    with (output_dir / QUARANTINE_FILE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([("name", "reason"), *sorted(work.quarantined)])
    summary = _summarize(source, plan, index, work)
    document = _document(summary, plan, work, options)
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    (output_dir / DATASET_FILE).write_text(text + "\n", encoding="utf-8")
    return summary


def _write_pictures(
    source: AbstractSource,
    plan: Plan,
    options: PrepareOptions,
    output_dir: Path,
    work: _Work,
    pool: ThreadPoolExecutor,
    progress: Callable[[int, int], None] | None,
) -> None:
    class_index = {key: index for index, key in enumerate(plan.class_keys)}
    total = sum(len(entries) for entries in plan.splits.values())
    done = 0
    for split in SPLIT_NAMES:
        writer = ShardWriter(output_dir, split, options.shard_bytes)
        for entry, future in _in_order(source, plan.splits[split], options.max_edge, pool):
            done += 1
            if progress is not None:
                progress(done, total)
            try:
                picture = future.result()
            except PictureError as error:
                work.quarantined.append((entry.name, str(error)))
                continue
            except OSError as error:
                work.quarantined.append((entry.name, f"cannot be read: {error.strerror or error}"))
                continue
            index = class_index[entry.class_key]
            shard, offset = writer.add(picture.data, picture.suffix, index)
            if split != "val":
                work.moments += picture.moments
            if picture.converted_from:
                work.converted[picture.converted_from] += 1
            digest = hashlib.sha256(picture.data).hexdigest()
            size = (picture.width, picture.height, len(picture.data))
            place = (digest, shard, offset, picture.converted_from)
            work.rows.append((entry.name, index, entry.class_key, split, *size, *place))
        writer.close()
        work.shards += writer.shards


def _in_order(
    source: AbstractSource,
    entries: tuple[Entry, ...],
    max_edge: int | None,
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[Entry, Future[Picture]]]:
    """Reads and converts in threads, a few pictures ahead, and yields in the given order."""

    def work(entry: Entry) -> Picture:
        return prepare_picture(source.read(entry), max_edge)

    ahead: deque[tuple[Entry, Future[Picture]]] = deque()
    for entry in entries:
        ahead.append((entry, pool.submit(work, entry)))
        if len(ahead) > 4 * _NUM_THREADS:
            yield ahead.popleft()
    yield from ahead


def _check_quarantine(
    index: pd.DataFrame, plan: Plan, work: _Work, options: PrepareOptions
) -> None:
    total = len(index) + len(work.quarantined)
    examples = "; ".join(
        f"{name}: {reason}" for name, reason in sorted(work.quarantined)[:_NUM_EXAMPLES]
    )
    share = len(work.quarantined) / total
    if share > options.max_quarantined_fraction:
        raise FpnasError(
            f"{len(work.quarantined)} of {total} pictures of {options.data} cannot be used, more "
            f"than max_quarantined_fraction={options.max_quarantined_fraction}. Examples: "
            f"{examples}. Fix: repair or remove them, or raise the limit."
        )
    present = set(zip(index["split"], index["class_key"], strict=True))
    for split in SPLIT_NAMES:
        for key in plan.class_keys:
            if (split, key) not in present:
                raise FpnasError(
                    f"class {key} of {options.data} has no usable picture left for the split "
                    f"{split}. Examples: {examples}. Fix: add pictures to it, or leave the class "
                    "out with class_names."
                )


def _summarize(
    source: AbstractSource, plan: Plan, index: pd.DataFrame, work: _Work
) -> DatasetSummary:
    is_val = index["split"] == "val"
    mean, square = work.moments / int((~is_val).sum())
    std = np.sqrt(np.maximum(square - mean**2, 0.0))
    ignored = dict(source.ignored)
    if plan.unused_val_classes:
        ignored["validation class without training pictures"] = len(plan.unused_val_classes)
    duplicates = index.loc[is_val, "sha256"].isin(set(index.loc[~is_val, "sha256"]))
    return DatasetSummary(
        source=source.kind,
        classes=name_classes(plan.class_keys, source.class_names),
        counts={name: int((index["split"] == name).sum()) for name in SPLIT_NAMES},
        num_bytes=sum(shard.num_bytes for shard in work.shards),
        converted=dict(sorted(work.converted.items())),
        num_quarantined=len(work.quarantined),
        ignored=dict(sorted(ignored.items())),
        num_duplicates=int(duplicates.sum()),
        mean=_rgb(mean),
        std=_rgb(std),
    )


def _rgb(values: Any) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 6) for value in values)
    return red, green, blue


def _document(
    summary: DatasetSummary, plan: Plan, work: _Work, options: PrepareOptions
) -> dict[str, Any]:
    told = asdict(options)
    # Where the data lay says nothing about what it is; two copies give equal datasets.
    del told["data"]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "dataset",
        **asdict(summary),
        "unused_val_classes": list(plan.unused_val_classes),
        "shards": [shard.to_json() for shard in work.shards],
        "options": told,
    }
