"""What every source of pictures offers: a list of entries, and the bytes of any one of them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from fpnas.data.layout import Entry, arrange, printable
from fpnas.errors import InputError


class AbstractSource(ABC):
    """Pictures that can be read in any order. Use it as a context manager.

    Attributes:
        kind: Short name of the sort of source, written to ``dataset.json``.
        entries: Every picture, sorted by name.
        ignored: Files passed over, counted by reason.
        class_names: Human names by class key, where the source knows them.
    """

    kind: str
    entries: tuple[Entry, ...]
    ignored: Mapping[str, int]
    class_names: Mapping[str, str]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def read(self, entry: Entry) -> bytes:
        """Returns the file's bytes. Threads may call this at the same time.

        Raises:
            OSError: When this one file cannot be read; the picture is then quarantined.
            FpnasError: When the source as a whole has failed.
        """

    def close(self) -> None:  # noqa: B027 - most sources hold nothing open
        """Gives back what the source holds open."""


class FolderSource(AbstractSource):
    """A folder in ImageNet layout, or with one folder per class.

    Links are followed, because class subsets are often made of links; a folder that is reached
    twice is read once, so a loop of links ends.

    Raises:
        InputError: When the folder cannot be listed.
    """

    kind = "folder"

    def __init__(self, folder: Path) -> None:
        self._paths: dict[str, Path] = {}
        seen: set[str] = set()

        def fail(error: OSError) -> None:
            raise InputError(
                "DATA",
                folder,
                f"cannot be listed ({error.strerror}: {error.filename})",
                fix="give the current user the right to read it",
            ) from error

        for parent, folders, files in os.walk(folder, followlinks=True, onerror=fail):
            real = os.path.realpath(parent)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            for file in files:
                path = Path(parent) / file
                self._paths[printable(path.relative_to(folder).as_posix())] = path
        layout = arrange(self._paths)
        self.entries, self.ignored = layout.entries, layout.ignored
        self.class_names = {}

    def read(self, entry: Entry) -> bytes:
        """Reads one file."""
        return self._paths[entry.name].read_bytes()
