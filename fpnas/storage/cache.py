"""Local copies of objects, by the sha256 of their contents.

Several processes share one folder. A copy appears under its name complete or not at all. A
process that uses a copy holds a shared lock on it, and a copy is removed only under an exclusive
lock, so nobody's file vanishes; the kernel drops the locks of a process that dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from fpnas.storage.connection import full_disk_error, is_full_disk


def home_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder for all local state: ``FPNAS_HOME``, else ``.fpnas`` right here."""
    return Path(environ.get("FPNAS_HOME") or ".fpnas").absolute()


def cache_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder for local copies: ``FPNAS_CACHE``, else ``cache`` in the home."""
    given = environ.get("FPNAS_CACHE")
    return Path(given).absolute() if given else home_directory(environ) / "cache"


def sha256_of_file(path: Path) -> str:
    """Returns the sha256 of a file's contents, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class LocalCache:
    """A folder of verified local copies, and of private folders for files being written.

    Each copy that is fetched and not released keeps one file open, so a process can hold as many
    as its open file limit allows.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._reset()

    def _reset(self) -> None:
        self._held: dict[str, tuple[int, int]] = {}  # sha256 -> (file descriptor, times fetched)
        self._lock = threading.Lock()
        self._process = os.getpid()

    def __getstate__(self) -> Path:
        return self.directory

    def __setstate__(self, directory: Path) -> None:
        self.__init__(directory)  # type: ignore[misc]

    def path(self, sha256: str) -> Path:
        """Returns where the copy with these contents is, or would be."""
        return self.directory / sha256[:2] / sha256

    def fetch(self, sha256: str, size: int, download: Callable[[BinaryIO], None]) -> Path:
        """Returns a local copy, downloading it when there is none that is whole.

        Args:
            sha256: What the contents must hash to.
            size: Their length in bytes.
            download: Writes the contents into the file it is given.

        Returns:
            The copy, which stays until :meth:`release`.

        Raises:
            CorruptDownloadError: If what was downloaded is something else.
            StorageError: If the disk is full.
        """
        self._disown_after_fork()
        path = self.path(sha256)
        while not self._hold_again(sha256):
            descriptor = self._acquire(path)
            if descriptor is None:
                self._download(path, sha256, size, download)
            elif not _is_whole(descriptor, sha256, size):
                # Damaged on this disk: whoever else holds it holds damage too.
                os.close(descriptor)
                path.unlink(missing_ok=True)
            elif self._hold_first(sha256, descriptor):
                break
        return path

    def release(self, sha256: str) -> None:
        """Gives a copy up; it is removed unless another process, or part of this one, uses it."""
        self._disown_after_fork()
        with self._lock:
            if sha256 not in self._held:
                return
            descriptor, times = self._held.pop(sha256)
            if times > 1:
                self._held[sha256] = (descriptor, times - 1)
                return
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.path(sha256).unlink(missing_ok=True)
            os.close(descriptor)

    def _hold_again(self, sha256: str) -> bool:
        with self._lock:
            if sha256 not in self._held:
                return False
            descriptor, times = self._held[sha256]
            self._held[sha256] = (descriptor, times + 1)
            return True

    def _hold_first(self, sha256: str, descriptor: int) -> bool:
        with self._lock:
            if sha256 in self._held:  # another thread was faster
                os.close(descriptor)
                return False
            self._held[sha256] = (descriptor, 1)
            return True

    def _disown_after_fork(self) -> None:
        # A lock taken before a fork belongs to both processes; only the parent may give it up.
        if self._process != os.getpid():
            self._reset()

    @contextlib.contextmanager
    def private_directory(self) -> Iterator[Path]:
        """Makes a folder for one writer, removed at the end of the block.

        Folders of writers that died are removed too: theirs are the ones that nobody has locked
        (process numbers would not tell, since containers count their own).

        Raises:
            StorageError: If the disk is full.
        """
        parent = self.directory / "writing"
        try:
            parent.mkdir(parents=True, exist_ok=True)
            for left in parent.iterdir():
                _remove_abandoned(left)
            path, descriptor = _locked_directory(parent)
        except OSError as error:
            if is_full_disk(error):
                raise full_disk_error(parent) from error
            raise
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)

    def _acquire(self, path: Path) -> int | None:
        """Opens and share-locks the file that ``path`` names; None when there is none."""
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            # It was removed or replaced between the opening and the lock.
            os.close(descriptor)

    def _download(
        self, path: Path, sha256: str, size: int, download: Callable[[BinaryIO], None]
    ) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part.") as part:
                download(part.file)  # type: ignore[arg-type]
                part.flush()
                actual_size = os.fstat(part.fileno()).st_size
                actual = sha256_of_file(Path(part.name))
                if (actual, actual_size) != (sha256, size):
                    raise CorruptDownloadError(actual, actual_size)
                os.fchmod(part.fileno(), 0o444)
                # A link, not a rename: it never replaces a copy that somebody has locked.
                with contextlib.suppress(FileExistsError):
                    os.link(part.name, path)
        except OSError as error:
            if is_full_disk(error):
                raise full_disk_error(path.parent) from error
            raise


class CorruptDownloadError(Exception):
    """What was downloaded has another size or sha256 than was asked for."""

    def __init__(self, sha256: str, size: int) -> None:
        self.sha256, self.size = sha256, size
        super().__init__(f"has {size} bytes with sha256 {sha256}")


def _is_whole(descriptor: int, sha256: str, size: int) -> bool:
    if os.fstat(descriptor).st_size != size:
        return False
    with os.fdopen(os.dup(descriptor), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _locked_directory(parent: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(dir=parent))
        # Another process may sweep the new folder before it is locked.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():
                return path, descriptor
            os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)
