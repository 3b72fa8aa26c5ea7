"""Artifacts: files under one S3 prefix, made real by a manifest that is written last.

Under the artifact's key are ``<start of the file's sha256>/<name>`` for each file and
``manifest.json``. A name with its contents' hash in front never changes, so a writer that dies,
or two writers at once, leave at worst objects that no manifest names.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fpnas.canonical import canonical_json, digest
from fpnas.storage import tensors as tensor_codec
from fpnas.storage.cache import CorruptDownloadError, sha256_of_file
from fpnas.storage.connection import full_disk_error, is_full_disk
from fpnas.storage.errors import ArtifactCorruptError, ObjectMissingError

if TYPE_CHECKING:
    import torch

    from fpnas.storage.store import Store

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


def stage_key(
    stage: str, config: Mapping[str, Any], parents: Mapping[str, str], code_version: str
) -> str:
    """Returns the key of what a stage makes: equal inputs, config and code give an equal key.

    Args:
        stage: The stage's name.
        config: Its configuration, as JSON.
        parents: The digests of the artifacts it reads, by role.
        code_version: The digest of its code.

    Returns:
        Such as ``artifacts/coarse/<32 hexadecimal digits>``.
    """
    identity = {
        "stage": stage,
        "config": config,
        "parents": parents,
        "code_version": code_version,
    }
    return f"artifacts/{stage}/{digest(identity)[:32]}"


def content_digest(kind: str, schema_version: int, files: Mapping[str, Any]) -> str:
    """Returns an artifact's digest, which depends on what it holds and nothing else."""
    return digest({"kind": kind, "schema_version": schema_version, "files": files})


class Artifact:
    """A committed artifact, for reading.

    Attributes:
        key: Its key in the store.
        uri: Its full address.
        manifest: All of its manifest.
        kind: What it holds.
        digest: The sha256 that identifies its contents.
        config: The configuration that made it.
        bill: What making it cost.
    """

    def __init__(self, store: Store, key: str, manifest: Mapping[str, Any]) -> None:
        self.store, self.key, self.manifest = store, key, manifest
        self.uri = store.uri(key)
        self.kind: str = manifest["kind"]
        self.digest: str = manifest["digest"]
        self.config: Mapping[str, Any] = manifest["config"]
        self.bill: Mapping[str, Any] = manifest["bill"]

    @property
    def files(self) -> list[str]:
        """The names of its files, sorted."""
        return sorted(self.manifest["files"])

    def file_uri(self, name: str) -> str:
        """Returns the full address of one of its files."""
        return self.store.uri(_object_key(self.key, name, self._entry(name)["sha256"]))

    def fetch(self, name: str) -> Path:
        """Returns a local, verified, read-only copy of a file.

        Raises:
            ArtifactCorruptError: If the object is missing or is not what the manifest says.
            StorageError: If the storage fails or the disk is full.
        """
        entry = self._entry(name)
        key = _object_key(self.key, name, entry["sha256"])
        try:
            return self.store.cache.fetch(
                entry["sha256"], entry["size"], lambda file: self.store.stream(key, file)
            )
        except CorruptDownloadError as error:
            problem = f"{error}, not {entry['size']} bytes with sha256 {entry['sha256']}"
            raise _corrupt(self.store, key, self.key, problem) from error
        except ObjectMissingError as error:
            raise _corrupt(self.store, key, self.key, "is missing") from error

    def release(self, name: str) -> None:
        """Gives a fetched copy up, so that it takes no room. Its path must not be used again."""
        self.store.cache.release(self._entry(name)["sha256"])

    def read_json(self, name: str) -> Any:
        """Returns the contents of a JSON file. Raises as :meth:`fetch` does."""
        value = json.loads(self.fetch(name).read_text(encoding="utf-8"))
        self.release(name)
        return value

    def read_tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Returns the tensors of a safetensors file. Raises as :meth:`fetch` does."""
        tensors, _ = tensor_codec.decode(self.fetch(name).read_bytes())
        self.release(name)
        return tensors

    def _entry(self, name: str) -> Mapping[str, Any]:
        try:
            entry: Mapping[str, Any] = self.manifest["files"][name]
        except KeyError:
            raise KeyError(f"{self.uri} has no file {name!r}, only {self.files}") from None
        return entry


class ArtifactWriter:
    """Collects an artifact's files in a private folder, and commits them.

    ``with store.create(...) as writer: ...; artifact = writer.commit()``. Leaving the block
    without a commit, or a failure at any point before the manifest is written, commits nothing.
    """

    def __init__(
        self,
        store: Store,
        key: str,
        *,
        kind: str,
        config: Mapping[str, Any],
        parents: Mapping[str, Mapping[str, str]],
        code_version: str,
        bill: Mapping[str, Any],
    ) -> None:
        self._store, self._key = store, key
        self.bill: dict[str, Any] = dict(bill)
        self._manifest: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "kind": kind,
            "config": config,
            "config_digest": digest(config),
            "parents": parents,
            "code_version": code_version,
        }
        self._directory: Path | None = None

    def __enter__(self) -> Self:
        self._resources = contextlib.ExitStack()
        self._directory = self._resources.enter_context(self._store.cache.private_directory())
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        directory = self._open_directory()
        self._directory = None
        self._resources.close()
        if error is not None and is_full_disk(error):
            raise full_disk_error(directory) from error

    def path(self, name: str) -> Path:
        """Returns where to write the file ``name``, which may hold slashes.

        Raises:
            ValueError: If the name is absolute, climbs out, or holds odd characters.
        """
        if not _NAME.fullmatch(name) or name == MANIFEST:
            raise ValueError(
                f"{name!r} is no name for an artifact's file; use letters, digits and ._-/"
            )
        path = self._open_directory() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_json(self, name: str, value: Any) -> None:
        """Writes canonical JSON.

        Raises:
            ValueError: For NaN or an infinity.
        """
        self.path(name).write_text(canonical_json(value) + "\n", encoding="ascii")

    def write_tensors(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Writes safetensors; equal tensors give equal bytes."""
        self.path(name).write_bytes(tensor_codec.encode(tensors))

    def commit(self) -> Artifact:
        """Uploads the files, then the manifest.

        Returns:
            The artifact.

        Raises:
            ValueError: If there is no file.
            StorageError: If the storage fails. Nothing is committed then, and an artifact that
                was under the key before is still there.
        """
        directory = self._open_directory()
        paths = sorted(path for path in directory.rglob("*") if path.is_file())
        if not paths:
            raise ValueError(f"nothing was written for {self._store.uri(self._key)}")
        files: dict[str, Any] = {}
        for path in paths:
            name = path.relative_to(directory).as_posix()
            files[name] = {"size": path.stat().st_size, "sha256": sha256_of_file(path)}
            self._store.put_file(_object_key(self._key, name, files[name]["sha256"]), path)
        manifest = {
            **self._manifest,
            "files": files,
            "digest": content_digest(self._manifest["kind"], SCHEMA_VERSION, files),
            "bill": self.bill,
        }
        text = canonical_json(manifest)
        self._store.put_bytes(f"{self._key}/{MANIFEST}", text.encode("ascii"))
        return Artifact(self._store, self._key, json.loads(text))

    def _open_directory(self) -> Path:
        if self._directory is None:
            raise RuntimeError("an ArtifactWriter is used inside its with block")
        return self._directory


def read_manifest(store: Store, key: str) -> dict[str, Any] | None:
    """Reads and checks a manifest; None when there is none.

    Raises:
        ArtifactCorruptError: If it is damaged, or a file it names is missing or has another size.
    """
    manifest_key = f"{key}/{MANIFEST}"
    try:
        data = store.get_bytes(manifest_key)
    except ObjectMissingError:
        return None
    try:
        manifest: dict[str, Any] = json.loads(data)
        version, files = manifest["schema_version"], manifest["files"]
        if version != SCHEMA_VERSION:
            problem = f"has schema version {version}; this program reads {SCHEMA_VERSION}"
            raise _corrupt(store, manifest_key, key, problem)
        if content_digest(manifest["kind"], version, files) != manifest["digest"]:
            raise _corrupt(store, manifest_key, key, "does not match its own digest")
        manifest["config"], manifest["bill"], manifest["parents"]
        expected = {_object_key(key, name, file["sha256"]): file for name, file in files.items()}
    except (ValueError, KeyError, TypeError) as error:
        raise _corrupt(store, manifest_key, key, f"is not a whole manifest ({error})") from error
    sizes = {found.key: found.size for found in store.list(f"{key}/")}
    for object_key, file in expected.items():
        if object_key not in sizes:
            raise _corrupt(store, object_key, key, "is missing")
        if sizes[object_key] != file["size"]:
            problem = f"has {sizes[object_key]} bytes, not {file['size']}"
            raise _corrupt(store, object_key, key, problem)
    return manifest


def delete_artifact(store: Store, key: str) -> None:
    """Deletes an artifact, its manifest first."""
    store.delete(f"{key}/{MANIFEST}")
    for found in list(store.list(f"{key}/")):
        store.delete(found.key)


def _object_key(key: str, name: str, sha256: str) -> str:
    return f"{key}/{sha256[:16]}/{name}"


def _corrupt(store: Store, object_key: str, key: str, problem: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        store.uri(object_key),
        problem,
        fix=f"delete {store.uri(f'{key}/{MANIFEST}')} and run again; the stage then makes the "
        "artifact anew",
    )
