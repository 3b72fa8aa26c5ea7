"""Local copies of objects."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fpnas.storage import (
    cache_directory,
    home_directory,
)

from .helpers import make


def test_copy_is_reused_and_released(store, monkeypatch):
    artifact = make(store)
    path = artifact.fetch("sub/data.txt")
    monkeypatch.setattr(store, "stream", None)  # any download would fail
    assert artifact.fetch("sub/data.txt") == path
    artifact.release("sub/data.txt")
    assert path.exists()
    artifact.release("sub/data.txt")
    assert not path.exists()
    artifact.release("sub/data.txt")  # once more does nothing


@pytest.mark.parametrize("damaged", [b"HELLO", b"hel"])
def test_damaged_copy_is_fetched_again(store, damaged):
    artifact = make(store)
    sha256 = artifact.manifest["files"]["sub/data.txt"]["sha256"]
    path = store.cache.path(sha256)
    path.parent.mkdir(parents=True)
    path.write_bytes(damaged)
    assert artifact.fetch("sub/data.txt").read_text() == "hello"


def test_release_leaves_what_another_process_uses(store, environ):
    artifact = make(store)
    path = artifact.fetch("sub/data.txt")
    code = (
        "import sys; from fpnas.storage import connect\n"
        f"artifact = connect().find({artifact.key!r})\n"
        "artifact.fetch('sub/data.txt'); artifact.release('sub/data.txt')"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environ}, check=True)
    assert path.read_text() == "hello"


@pytest.mark.filterwarnings(
    # Python 3.12 warns of any fork in a process with threads; the fork is what is tested.
    "ignore:This process .* is multi-threaded:DeprecationWarning"
)
def test_release_in_a_fork_leaves_the_parents_copy(store):
    artifact = make(store)
    path = artifact.fetch("sub/data.txt")
    child = os.fork()
    if child == 0:
        artifact.release("sub/data.txt")
        os._exit(0)
    os.waitpid(child, 0)
    assert path.exists()


def test_private_directory_of_a_living_writer_is_not_swept(store):
    with store.cache.private_directory() as mine:
        with store.cache.private_directory() as other:
            assert mine.is_dir()
            assert mine != other
        assert not other.exists()
    assert not mine.exists()


def test_home_and_cache_directories():
    assert home_directory({}) == Path(".fpnas").absolute()
    assert cache_directory({"FPNAS_HOME": "/h"}) == Path("/h/cache")
    assert cache_directory({"FPNAS_HOME": "/h", "FPNAS_CACHE": "/c"}) == Path("/c")
