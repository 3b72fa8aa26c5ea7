"""The store: objects, checks of its settings, canonical JSON."""

import os
import pickle
import subprocess
import sys

import pytest

from fpnas.canonical import canonical_json, digest
from fpnas.errors import InputError
from fpnas.storage import (
    ObjectMissingError,
    StorageError,
    connect,
)

from .helpers import fail_calls


def test_canonical_json_has_one_spelling():
    assert canonical_json({"b": (1, 1.0), "a": "\u00e9"}) == '{"a":"\\u00e9","b":[1,1.0]}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.0})


@pytest.mark.parametrize("value", [float("nan"), {"a": float("inf")}, {1: 2}])
def test_canonical_json_refuses_what_json_lacks(value):
    with pytest.raises(ValueError, match=r"JSON"):
        canonical_json(value)


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


@pytest.mark.parametrize(
    ("code", "advice"),
    [("ExpiredToken", "AWS_SESSION_TOKEN"), ("SlowDown", "has space")],
)
@pytest.mark.parametrize("operation", ["PutObject", "CreateMultipartUpload", "GetObject"])
def test_keys_that_expire_on_the_way_are_told_from_a_storage_that_fails(
    store, tmp_path, monkeypatch, operation, code, advice
):
    if operation == "CreateMultipartUpload":
        monkeypatch.setattr("fpnas.storage.store._SINGLE_PUT_BYTES", 1)
    path = tmp_path / "file"
    path.write_bytes(b"12")
    fail_calls(store.client, operation, code)
    with pytest.raises(StorageError, match=code) as caught:
        store.get_bytes("k") if operation == "GetObject" else store.put_file("k", path)
    assert advice in str(caught.value)
    assert "run again" in str(caught.value)
    assert caught.value.exit_status == 1


def test_keys_that_may_only_read_are_enough_to_read(store, monkeypatch):
    client = store.connection.client()
    fail_calls(client, "PutObject", "AccessDenied")
    monkeypatch.setattr(type(store.connection), "client", lambda self, max_attempts=5: client)
    store.check_readable()
    with pytest.raises(InputError, match="AccessDenied"):
        store.check()
