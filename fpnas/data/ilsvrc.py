"""The official ILSVRC2012 archives, read as they are downloaded.

``ILSVRC2012_img_train.tar`` is a tar of one tar per class. ``ILSVRC2012_img_val.tar`` is flat:
its classes are in the devkit, as ILSVRC ids that ``meta.mat`` maps to wnids.
"""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from pathlib import Path
from typing import IO

from fpnas.data.archives import Span, SpanReader, broken_archive, is_tar_name, list_members
from fpnas.data.layout import Entry
from fpnas.data.source import AbstractSource
from fpnas.errors import InputError

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VAL_TAR = "ILSVRC2012_img_val.tar"
DEVKIT_TAR = "ILSVRC2012_devkit_t12.tar.gz"
OFFICIAL_TARS = (TRAIN_TAR, VAL_TAR, DEVKIT_TAR)
_META = "data/meta.mat"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"


class IlsvrcSource(AbstractSource):
    """ILSVRC2012 from its official archives in one folder.

    With the train archive alone there is one pool, and the validation pictures are split off.

    Args:
        folder: Holds the train archive, and the validation archive with its devkit if wanted.

    Raises:
        InputError: When an archive is damaged, or the validation archive has no devkit.
    """

    kind = "ilsvrc"

    def __init__(self, folder: Path) -> None:
        train, val, devkit = (folder / name for name in OFFICIAL_TARS)
        if val.exists() and not devkit.exists():
            raise InputError(
                "DATA",
                folder,
                f"has {VAL_TAR} but not {DEVKIT_TAR}, which holds its labels",
                fix=f"put {DEVKIT_TAR} beside it, or move {VAL_TAR} away to split off the "
                "validation pictures from the training pictures",
            )
        self._spans: dict[str, tuple[Path, Span]] = {}
        ignored: Counter[str] = Counter()
        self.class_names = {}
        split = "train" if val.exists() else None
        entries = []
        for name, class_key, span in _list_train(train, ignored):
            entries.append(Entry(name, class_key, split))  # type: ignore[arg-type]
            self._spans[name] = (train, span)
        if val.exists():
            labels, self.class_names = _read_devkit(devkit)
            for name, class_key, span in _list_val(val, labels, ignored):
                entries.append(Entry(name, class_key, "val"))
                self._spans[name] = (val, span)
        self.entries = tuple(sorted(entries, key=lambda entry: entry.name))
        self.ignored = dict(ignored)
        self._readers = {path: SpanReader(path) for path in {p for p, _ in self._spans.values()}}

    def read(self, entry: Entry) -> bytes:
        """Reads one picture out of its archive."""
        path, span = self._spans[entry.name]
        return self._readers[path].read(span)

    def close(self) -> None:
        """Closes the archives."""
        for reader in self._readers.values():
            reader.close()


def _list_train(path: Path, ignored: Counter[str]) -> list[tuple[str, str, Span]]:
    """Lists (name, wnid, span) of every picture of the tar of tars."""
    pictures = []
    with path.open("rb") as fileobj:
        outer, skipped = list_members(fileobj, path)
        ignored.update(skipped)
        for class_tar, outer_span in sorted(outer.items()):
            if not is_tar_name(class_tar):
                ignored["not a class archive"] += 1
                continue
            wnid = Path(class_tar).stem
            window = _Window(fileobj, outer_span)
            spans, skipped = list_members(
                io.BufferedReader(window), path / class_tar, base=outer_span.offset
            )
            ignored.update(skipped)
            pictures += [(f"train/{wnid}/{name}", wnid, span) for name, span in spans.items()]
    return pictures


def _list_val(path: Path, labels: list[str], ignored: Counter[str]) -> list[tuple[str, str, Span]]:
    """Lists (name, wnid, span) of the validation pictures, labelled in the order of their names."""
    with path.open("rb") as fileobj:
        spans, skipped = list_members(fileobj, path)
    ignored.update(skipped)
    if len(spans) != len(labels):
        raise InputError(
            "DATA",
            path,
            f"holds {len(spans)} pictures, but the devkit labels {len(labels)}",
            fix="use the archive and the devkit of the same release",
        )
    named = zip(sorted(spans.items()), labels, strict=True)
    return [(f"val/{wnid}/{name}", wnid, span) for (name, span), wnid in named]


def _read_devkit(path: Path) -> tuple[list[str], dict[str, str]]:
    """Returns the wnid of every validation picture, and the human name of every wnid."""
    from mat4py import loadmat

    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                for wanted in (_META, _GROUND_TRUTH):
                    if not member.name.endswith(wanted):
                        continue
                    if reader := archive.extractfile(member):
                        files[wanted] = reader.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise broken_archive(path, error) from error
    missing = [name for name in (_META, _GROUND_TRUTH) if name not in files]
    if missing:
        raise InputError(
            "DATA", path, f"does not hold {missing[0]}", fix=f"use the official {DEVKIT_TAR}"
        )
    synsets = loadmat(io.BytesIO(files[_META]))["synsets"]
    wnids = dict(zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True))
    words = zip(synsets["WNID"], synsets["words"], strict=True)
    names = {wnid: text.split(",")[0] for wnid, text in words}
    ids = [int(line) for line in files[_GROUND_TRUTH].split()]
    unknown = sorted(set(ids) - set(wnids))
    if unknown:
        raise InputError(
            "DATA",
            path,
            f"labels pictures with ILSVRC id {unknown[0]}, which {_META} does not have",
            fix=f"use the official {DEVKIT_TAR}",
        )
    return [wnids[number] for number in ids], names


class _Window(io.RawIOBase):
    """A span of an open file as a file of its own, so that a tar inside a tar can be listed."""

    def __init__(self, fileobj: IO[bytes], span: Span) -> None:
        self._file, self._span, self._position = fileobj, span, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._span.num_bytes}
        self._position = base[whence] + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        num_bytes = max(0, min(len(buffer), self._span.num_bytes - self._position))
        self._file.seek(self._span.offset + self._position)
        data = self._file.read(num_bytes)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
