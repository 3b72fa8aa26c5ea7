"""Tar archives as a source: read in place, never unpacked, so no member can leave its place."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from fpnas.data.layout import Entry, arrange, printable
from fpnas.data.source import AbstractSource
from fpnas.errors import FpnasError, InputError

_OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".tgz": gzip.open,
    ".xz": lzma.open,
    ".txz": lzma.open,
    ".bz2": bz2.open,
}
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")


class Span(NamedTuple):
    """Where a member's bytes lie in an archive that is not compressed."""

    offset: int
    num_bytes: int


def is_tar_name(name: str) -> bool:
    """Says whether a file name has one of the suffixes of a tar archive."""
    return name.lower().endswith(TAR_SUFFIXES)


def is_compressed(path: Path) -> bool:
    """Says whether a tar archive's name says that it is compressed."""
    return path.suffix.lower() in _OPENERS


def broken_archive(path: Path, error: Exception) -> InputError:
    """Returns the error for an archive that cannot be read to its end."""
    return InputError(
        "DATA",
        path,
        f"is not a complete tar archive ({error})",
        fix="download or copy it again and compare its checksum with the publisher's",
    )


def plain_tar(path: Path, scratch: Path) -> Path:
    """Returns an archive that allows reading at any offset, decompressing it once if needed.

    Args:
        path: The archive.
        scratch: An existing folder for the decompressed copy.

    Raises:
        InputError: When the archive is damaged.
        FpnasError: When the copy cannot be written.
    """
    if not is_compressed(path):
        return path
    target = scratch / (path.name + ".plain")
    try:
        with _OPENERS[path.suffix.lower()](path, "rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        target.unlink(missing_ok=True)
        # Damage has no errno; a full disk or a failing one does.
        if isinstance(error, OSError) and error.errno is not None:
            raise FpnasError(
                f"{path} cannot be decompressed into {scratch}: {error.strerror}. "
                "Fix: set TMPDIR to a larger disk, or decompress it yourself."
            ) from error
        raise broken_archive(path, error) from error
    return target


def list_members(
    fileobj: IO[bytes], path: Path, *, base: int = 0
) -> tuple[dict[str, Span], dict[str, int]]:
    """Lists the regular files of an uncompressed tar without reading them.

    Links, devices, sparse files and paths that are absolute or climb out with ``..`` are
    counted, not followed. Of members with the same name the last counts, as tar has it.

    Args:
        fileobj: The archive, at its start.
        path: Its name, for errors.
        base: Offset of ``fileobj`` within the file that the spans are to refer to.

    Returns:
        Spans by member name, and the ignored members by reason.

    Raises:
        InputError: When the archive is damaged or cut short.
    """
    spans: dict[str, Span] = {}
    ignored: Counter[str] = Counter()
    try:
        with tarfile.open(fileobj=fileobj, mode="r:") as archive:
            for member in archive:
                # tarfile remembers every member; at a million of them that is gigabytes.
                archive.members.clear()  # type: ignore[attr-defined]
                if member.isdir():
                    continue
                name = PurePosixPath(printable(member.name))
                if member.issym() or member.islnk():
                    ignored["link in an archive"] += 1
                elif not member.isreg() or member.issparse():
                    ignored["special file in an archive"] += 1
                elif name.is_absolute() or ".." in name.parts:
                    ignored["unsafe path in an archive"] += 1
                else:
                    spans[name.as_posix()] = Span(base + member.offset_data, member.size)
            # tarfile takes a damaged header for the end; the real end is a block of zeros.
            fileobj.seek(archive.offset)
            if fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError(f"damaged header at byte {archive.offset}")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise broken_archive(path, error) from error
    return spans, dict(ignored)


class SpanReader:
    """Reads spans of one file from any thread."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")

    def read(self, span: Span) -> bytes:
        """Returns the bytes of a span.

        Raises:
            OSError: When the file ends before the span does.
        """
        # pread has no shared position, so threads need no lock.
        data = os.pread(self._file.fileno(), span.num_bytes, span.offset)
        while len(data) < span.num_bytes:
            more = os.pread(
                self._file.fileno(), span.num_bytes - len(data), span.offset + len(data)
            )
            if not more:
                raise OSError(f"the archive ends {span.num_bytes - len(data)} bytes early")
            data += more
        return data

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TarSource(AbstractSource):
    """A tar archive of a folder in ImageNet layout, or with one folder per class.

    Args:
        path: The archive; ``.gz``, ``.xz`` and ``.bz2`` are decompressed into ``scratch`` first.
        scratch: An existing folder for temporary files.

    Raises:
        InputError: When the archive is damaged.
    """

    kind = "tar"

    def __init__(self, path: Path, scratch: Path) -> None:
        plain = plain_tar(path, scratch)
        with plain.open("rb") as fileobj:
            self._spans, skipped = list_members(fileobj, path)
        layout = arrange(self._spans)
        self.entries = layout.entries
        self.ignored = dict(Counter(layout.ignored) + Counter(skipped))
        self.class_names: dict[str, Any] = {}
        self._reader = SpanReader(plain)

    def read(self, entry: Entry) -> bytes:
        """Reads one member."""
        return self._reader.read(self._spans[entry.name])

    def close(self) -> None:
        """Closes the archive."""
        self._reader.close()
