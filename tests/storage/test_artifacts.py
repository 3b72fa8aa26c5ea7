"""Artifacts: whole or absent, whatever fails; faults are injected into client or server."""

import errno
import os
import signal
import subprocess
import sys

import botocore.exceptions
import pytest
import torch

from fpnas.errors import InputError
from fpnas.storage import (
    ArtifactCorruptError,
    StorageError,
    connect,
    delete_artifact,
    stage_key,
)

from .helpers import fail_calls, make


def test_artifact_round_trip(store):
    made = make(store, bill={"seconds": 1.5})
    found = store.find("artifacts/x/1")
    assert found.manifest == made.manifest
    assert found.kind == "Thing"
    assert found.bill == {"seconds": 1.5}
    assert found.config == {"a": 1}
    assert found.files == ["sub/data.txt", "value.json"]
    assert found.fetch("sub/data.txt").read_text() == "hello"
    assert found.read_json("value.json") == {"a": None, "b": [1, 2.5]}
    assert store.open(found.uri).digest == made.digest
    with pytest.raises(KeyError, match="no file 'other'"):
        found.fetch("other")


def test_artifact_in_another_prefix_opens_by_uri(environ, store):
    made = make(store)
    elsewhere = connect({**environ, "FPNAS_STORAGE": f"s3://{store.bucket}/elsewhere"})
    assert elsewhere.open(made.uri).read_json("value.json")["b"] == [1, 2.5]


def test_digest_depends_on_contents_alone(store):
    first = make(store, "artifacts/x/1", bill={"seconds": 1})
    second = make(store, "artifacts/x/2", bill={"seconds": 2}, config={"a": 2})
    other = make(store, "artifacts/x/3", text="other")
    assert first.digest == second.digest != other.digest
    assert first.manifest["config_digest"] != second.manifest["config_digest"]


def test_parents_are_recorded(store):
    parent = make(store)
    with store.create(
        "artifacts/y/1", kind="Y", config={}, parents={"data": parent}, code_version="c"
    ) as writer:
        writer.write_json("y.json", 1)
        child = writer.commit()
    assert child.manifest["parents"] == {"data": {"uri": parent.uri, "digest": parent.digest}}


def test_stage_key_changes_with_each_input():
    base = ("coarse", {"lr": 0.1}, {"data": "d"}, "c")
    keys = {
        stage_key(*base),
        stage_key("fine", *base[1:]),
        stage_key("coarse", {"lr": 0.2}, *base[2:]),
        stage_key("coarse", {"lr": 0.1}, {"data": "e"}, "c"),
        stage_key(*base[:3], "d"),
    }
    assert len(keys) == 5
    assert stage_key(*base) in keys
    assert stage_key(*base).startswith("artifacts/coarse/")


def test_tensors_round_trip_and_are_bytewise_equal(store):
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors = {"whole": base, "turned": base.t(), "alias": base, "none": torch.empty(0, 3)}
    digests = []
    for key in ("artifacts/t/1", "artifacts/t/2"):
        with store.create(key, kind="T", config={}, parents={}, code_version="c") as writer:
            writer.write_tensors("t.safetensors", tensors)
            artifact = writer.commit()
        digests.append(artifact.digest)
        read = artifact.read_tensors("t.safetensors")
        assert all(torch.equal(read[name], tensors[name]) for name in tensors)
        tensors = dict(reversed(tensors.items()))
    assert digests[0] == digests[1]


def test_leaving_without_commit_uploads_nothing(store):
    with store.create("artifacts/x/1", kind="X", config={}, parents={}, code_version="c") as writer:
        writer.write_json("a.json", 1)
    assert list(store.list()) == []
    assert store.find("artifacts/x/1") is None
    with pytest.raises(InputError, match="does not exist"):
        store.open(store.uri("artifacts/x/1"))


@pytest.mark.parametrize("name", ["../up", "/abs", "a//b", "manifest.json", ".hidden", "a b", ""])
def test_odd_file_names_are_refused(store, name):
    with (
        store.create("artifacts/x/1", kind="X", config={}, parents={}, code_version="c") as writer,
        pytest.raises(ValueError, match="no name"),
    ):
        writer.path(name)


def test_corrupt_object_is_reported_with_its_name(store):
    artifact = make(store)
    key = next(found.key for found in store.list() if found.key.endswith("data.txt"))
    store.put_bytes(key, b"HELLO")  # the same size
    with pytest.raises(ArtifactCorruptError, match=r"data\.txt.*delete .*manifest\.json"):
        store.find(artifact.key).fetch("sub/data.txt")


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_truncated_or_missing_object_is_found_early(store, damage):
    artifact = make(store)
    key = next(found.key for found in store.list() if found.key.endswith("data.txt"))
    if damage == "truncate":
        store.put_bytes(key, b"hel")
    else:
        store.delete(key)
    with pytest.raises(ArtifactCorruptError, match=r"data\.txt (has 3 bytes, not 5|is missing)"):
        store.find(artifact.key)
    make(store)  # making it anew heals it
    assert store.find(artifact.key).fetch("sub/data.txt").read_text() == "hello"


@pytest.mark.parametrize("text", [b"{", b"[]", b'{"schema_version": 2, "files": {}}'])
def test_damaged_manifest_is_reported(store, text):
    store.put_bytes("artifacts/x/1/manifest.json", text)
    with pytest.raises(ArtifactCorruptError, match=r"manifest\.json"):
        store.find("artifacts/x/1")


def test_altered_manifest_is_reported(store):
    artifact = make(store)
    key = f"{artifact.key}/manifest.json"
    store.put_bytes(key, store.get_bytes(key).replace(b'"Thing"', b'"Other"'))
    with pytest.raises(ArtifactCorruptError, match="own digest"):
        store.find(artifact.key)


@pytest.mark.parametrize("failing_call", [1, 2, 3])
def test_server_error_in_mid_commit_commits_nothing(store, failing_call):
    fail_calls(store.client, "PutObject", "InternalError", when=lambda call: call == failing_call)
    with pytest.raises(StorageError, match="InternalError"):
        make(store)
    assert store.find("artifacts/x/1") is None
    assert make(store).read_json("value.json")["a"] is None


def test_failed_recommit_keeps_the_artifact_before(store):
    before = make(store)
    fail_calls(store.client, "PutObject", "SlowDown", when=lambda call: call == 3)
    with pytest.raises(StorageError):
        make(store, text="other")
    assert store.find(before.key).fetch("sub/data.txt").read_text() == "hello"


def test_full_disk_while_writing_commits_nothing(store):
    def fill_disk():
        with store.create("artifacts/x/1", kind="X", config={}, parents={}, code_version="c") as w:
            w.write_json("a.json", 1)
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"full.*FPNAS_HOME"):
        fill_disk()
    assert list(store.list()) == []
    assert list((store.cache.directory / "writing").iterdir()) == []


def test_full_disk_while_fetching_leaves_no_part(store, monkeypatch):
    artifact = make(store)

    def full(key, file):
        file.write(b"he")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "stream", full)
    with pytest.raises(StorageError, match="full"):
        artifact.fetch("sub/data.txt")
    assert [path for path in store.cache.directory.rglob("*") if path.is_file()] == []


def test_broken_connection_is_read_again(store, monkeypatch):
    artifact = make(store)
    original = store.client.get_object
    broken = []

    def get_object(**arguments):
        answer = original(**arguments)
        if not broken:
            broken.append(1)

            def chunks(_):
                yield b"he"
                raise botocore.exceptions.ResponseStreamingError(error="cut")

            monkeypatch.setattr(answer["Body"], "iter_chunks", chunks)
        return answer

    monkeypatch.setattr(store.client, "get_object", get_object)
    assert artifact.fetch("sub/data.txt").read_text() == "hello"
    assert broken


KILLED = """
import os, signal, sys
from fpnas.storage import connect
store = connect()
with store.create("artifacts/x/1", kind="X", config={}, parents={}, code_version="c") as writer:
    writer.write_json("a.json", 1)
    put = store.put_bytes
    def die_at_manifest(key, data):
        if key.endswith("manifest.json"):
            os.kill(os.getpid(), signal.SIGKILL)
        put(key, data)
    if sys.argv[1] == "die":
        store.put_bytes = die_at_manifest
    writer.commit()
"""


def test_kill_between_files_and_manifest_then_again(store, environ):
    command = [sys.executable, "-c", KILLED]
    killed = subprocess.run([*command, "die"], env={**os.environ, **environ}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [found.key for found in store.list()] != []
    assert store.find("artifacts/x/1") is None
    left = list((store.cache.directory / "writing").iterdir())
    assert len(left) == 1
    subprocess.run([*command, "live"], env={**os.environ, **environ}, check=True)
    assert store.find("artifacts/x/1").read_json("a.json") == 1
    assert list((store.cache.directory / "writing").iterdir()) == []


def test_delete_artifact_removes_everything(store):
    artifact = make(store)
    delete_artifact(store, artifact.key)
    assert list(store.list()) == []
