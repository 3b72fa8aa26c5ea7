"""Storage over the real S3 protocol; faults are injected into the client or the server."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import botocore.exceptions
import pytest
import torch
from moto.server import ThreadedMotoServer

from fpnas.canonical import canonical_json, digest
from fpnas.errors import InputError
from fpnas.storage import (
    ArtifactCorruptError,
    CheckpointSlot,
    ObjectMissingError,
    StorageError,
    cache_directory,
    connect,
    delete_artifact,
    home_directory,
    stage_key,
)


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environ(endpoint, tmp_path):
    return {
        "S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "very-secret-value",
        "FPNAS_STORAGE": f"s3://b{uuid.uuid4().hex}/some/prefix",
        "FPNAS_HOME": str(tmp_path / "home"),
    }


@pytest.fixture
def store(environ):
    store = connect(environ)
    store.create_bucket()
    return store


def make(store, key="artifacts/x/1", *, text="hello", bill=None, config=None):
    with store.create(
        key, kind="Thing", config=config or {"a": 1}, parents={}, code_version="c", bill=bill
    ) as writer:
        writer.path("sub/data.txt").write_text(text)
        writer.write_json("value.json", {"b": [1, 2.5], "a": None})
        return writer.commit()


# ------------------------------------------------------------------ canonical JSON


def test_canonical_json_has_one_spelling():
    assert canonical_json({"b": (1, 1.0), "a": "\u00e9"}) == '{"a":"\\u00e9","b":[1,1.0]}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.0})


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {1: 2}])
def test_canonical_json_refuses_what_json_lacks(value):
    with pytest.raises(ValueError, match=r"JSON"):
        canonical_json(value)


# ------------------------------------------------------------------ objects and checks


def test_importing_storage_imports_nothing_heavy():
    heavy = "{'torch', 'mlflow', 'pandas', 'numpy'}"
    code = f"import sys, fpnas.storage; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_objects_round_trip(store, tmp_path):
    store.check()
    assert not store.exists("k/a")
    store.put_bytes("k/a", b"1")
    store.put_bytes("k/b", b"")
    assert store.exists("k/a")
    assert store.get_bytes("k/b") == b""
    assert [(found.key, found.size) for found in store.list("k/")] == [("k/a", 1), ("k/b", 0)]
    store.download_file("k/a", tmp_path / "new" / "a")
    assert (tmp_path / "new" / "a").read_bytes() == b"1"
    store.delete("k/a")
    store.delete("k/a")
    with pytest.raises(ObjectMissingError, match="k/a"):
        store.get_bytes("k/a")
    assert store.uri("k").endswith("/some/prefix/k")


def test_large_file_goes_in_parts(store, tmp_path, monkeypatch):
    monkeypatch.setattr("fpnas.storage.store._SINGLE_PUT_BYTES", 5 << 20)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(11 << 20))
    store.put_file("large", path)
    store.download_file("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()


def test_store_survives_pickle_and_sees_other_places(store):
    store.put_bytes("k/a", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again.get_bytes("k/a") == b"1"
    assert store.at(store.uri("k")).get_bytes("a") == b"1"


def test_secrets_are_not_shown(store):
    assert "very-secret-value" not in repr(store.connection)


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        ({"FPNAS_STORAGE": "s3://no-such-bucket"}, "FPNAS_STORAGE", "aws s3 mb"),
        ({"S3_ENDPOINT_URL": "http://127.0.0.1:1"}, "S3_ENDPOINT_URL", "does not answer"),
        ({"S3_ENDPOINT_URL": "nonsense"}, "S3_ENDPOINT_URL", "not usable"),
        ({"FPNAS_STORAGE": "/a/folder"}, "FPNAS_STORAGE", "not an S3 place"),
    ],
)
def test_check_names_what_is_wrong(environ, store, change, field, text):
    with pytest.raises(InputError, match=text) as caught:
        connect({**environ, **change}).check()
    assert caught.value.field == field
    assert "very-secret-value" not in str(caught.value)


@pytest.mark.parametrize(
    ("operation", "code", "field"),
    [
        ("ListObjectsV2", "InvalidAccessKeyId", "AWS_ACCESS_KEY_ID"),
        ("ListObjectsV2", "SignatureDoesNotMatch", "AWS_ACCESS_KEY_ID"),
        ("PutObject", "AccessDenied", "FPNAS_STORAGE"),
    ],
)
def test_check_tells_refusals_apart(store, monkeypatch, operation, code, field):
    client = store.connection.client()
    fail_calls(client, operation, code)
    monkeypatch.setattr(type(store.connection), "client", lambda self, max_attempts=5: client)
    with pytest.raises(InputError, match=code) as caught:
        store.check()
    assert caught.value.field == field


def fail_calls(client, operation, code, when=lambda call: True):
    """Makes the client fail an operation before it is sent, when ``when(call number)``."""
    calls = []

    def fail(**_):
        calls.append(1)
        if when(len(calls)):
            raise botocore.exceptions.ClientError({"Error": {"Code": code}}, operation)

    client.meta.events.register(f"before-call.s3.{operation}", fail)


# ------------------------------------------------------------------ artifacts


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


# ------------------------------------------------------------------ local copies


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


# ------------------------------------------------------------------ checkpoints


def state(value):
    return {"w": torch.full((2, 3), float(value)), "step": torch.tensor(value)}


def test_checkpoint_holds_every_kind_of_tensor(store):
    tensors = {
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "half": torch.randn(5).bfloat16(),
        "turned": torch.arange(6).reshape(2, 3).t(),
        "flags": torch.tensor([True, False]),
        "nan": torch.tensor([float("nan")]),
    }
    meta = {"epoch": 1, "name": '"\u00e9"', "rng": [1, 2**63]}
    CheckpointSlot(store, "k").save(tensors, meta)
    read, read_meta = CheckpointSlot(store, "k").load()
    assert read_meta == meta
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_newest_checkpoint_is_loaded(store):
    assert CheckpointSlot(store, "k").load() is None
    for value in range(5):
        CheckpointSlot(store, "k").save(state(value), {"step": value})  # a new process each time
        tensors, meta = CheckpointSlot(store, "k").load()
        assert meta == {"step": value}
        assert torch.equal(tensors["w"], state(value)["w"])
    slot = CheckpointSlot(store, "k")
    slot.save(state(8), {"step": 8})
    slot.save(state(9), {"step": 9})
    assert slot.load()[1] == {"step": 9}
    assert len(list(store.list("checkpoints/k/"))) == 2
    slot.delete()
    assert list(store.list("checkpoints/")) == []
    assert slot.load() is None


@pytest.mark.parametrize("damage", ["cut", "flip data", "flip header", "empty"])
def test_damaged_checkpoint_falls_back_to_the_one_before(store, caplog, damage):
    slot = CheckpointSlot(store, "k")
    slot.save(state(1), {"step": 1})
    slot.save(state(2), {"step": 2})
    key = "checkpoints/k/b.safetensors"
    data = bytearray(store.get_bytes(key))
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip data":
        data[-1] ^= 1
    elif damage == "flip header":
        data[data.index(b'step\\":2') + 7] ^= 1
    else:
        data = bytearray()
    store.put_bytes(key, bytes(data))
    again = CheckpointSlot(store, "k")
    assert again.load()[1] == {"step": 1}
    assert "b.safetensors" in caplog.text
    again.save(state(3), {"step": 3})
    assert CheckpointSlot(store, "k").load()[1] == {"step": 3}
    assert len(list(store.list("checkpoints/k/"))) == 2


def test_two_damaged_checkpoints_are_an_error_one_is_not(store):
    store.put_bytes("checkpoints/k/a.safetensors", b"x")
    assert CheckpointSlot(store, "k").load() is None
    store.put_bytes("checkpoints/k/b.safetensors", b"x")
    with pytest.raises(ArtifactCorruptError, match="no whole checkpoint"):
        CheckpointSlot(store, "k").load()


def test_failed_save_keeps_the_state_before(store):
    slot = CheckpointSlot(store, "k")
    slot.save(state(1), {"step": 1})
    fail_calls(store.client, "PutObject", "InternalError", when=lambda call: call == 1)
    with pytest.raises(StorageError):
        slot.save(state(2), {"step": 2})
    assert CheckpointSlot(store, "k").load()[1] == {"step": 1}
    slot.save(state(3), {"step": 3})
    assert CheckpointSlot(store, "k").load()[1] == {"step": 3}


def test_checkpoint_meta_must_be_json(store):
    with pytest.raises(ValueError, match="JSON"):
        CheckpointSlot(store, "k").save({}, {"loss": float("nan")})
