"""The scripts that run inside the cluster."""

import datetime
import importlib.util
import subprocess
import sys
import types

import boto3
import pytest
from moto import mock_aws

from validation.kustomize import K8S

NOW = datetime.datetime(2026, 3, 1, 3, 17, tzinfo=datetime.UTC)


def script(path):
    spec = importlib.util.spec_from_file_location(path.replace("/", "_"), K8S / f"{path}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def client(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.delenv("S3_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield boto3.client("s3")


def keys(client):
    return [item["Key"] for item in client.list_objects_v2(Bucket="models").get("Contents", [])]


def test_the_bucket_is_made_once(client):
    bucket = script("components/seaweedfs/bucket")
    for _ in range(2):
        assert bucket.make(client, "s3://models/some/prefix") == "models"
    assert [item["Name"] for item in client.list_buckets()["Buckets"]] == ["models"]


@pytest.mark.parametrize(
    ("storage", "folder"),
    [("s3://models", "backups/mlflow/"), ("s3://models/team/", "team/backups/mlflow/")],
)
def test_a_dump_is_uploaded(client, tmp_path, storage, folder):
    client.create_bucket(Bucket="models")
    (tmp_path / "dump").write_bytes(b"PGDMP and more")
    backup = script("base/backup/upload")
    assert (
        backup.upload(tmp_path / "dump", client, storage, NOW) == f"{folder}20260301T031700Z.dump"
    )
    (key,) = keys(client)
    assert client.get_object(Bucket="models", Key=key)["Body"].read() == b"PGDMP and more"


@pytest.mark.parametrize("content", [b"", b"pg_dump: error: connection refused"])
def test_what_is_no_dump_is_not_uploaded(client, tmp_path, content):
    client.create_bucket(Bucket="models")
    (tmp_path / "dump").write_bytes(content)
    with pytest.raises(ValueError, match="is no dump"):
        script("base/backup/upload").upload(tmp_path / "dump", client, "s3://models", NOW)
    assert keys(client) == []


def test_old_dumps_go_but_never_the_newest_seven(client):
    client.create_bucket(Bucket="models")
    backup = script("base/backup/upload")
    days = [NOW - datetime.timedelta(days=age) for age in range(0, 60, 2)]
    for day in days:
        client.put_object(
            Bucket="models", Key=f"backups/mlflow/{day:%Y%m%dT%H%M%SZ}.dump", Body=b""
        )
    client.put_object(Bucket="models", Key="backups/mlflow/README", Body=b"")
    assert len(backup.prune(client, "s3://models", NOW, keep_days=30)) == 14  # 32, 34, ... 58 days
    assert len(keys(client)) == 16 + 1
    assert len(backup.prune(client, "s3://models", NOW, keep_days=0)) == 9
    assert len(keys(client)) == 7 + 1


def test_a_failed_upload_deletes_nothing(client, tmp_path, monkeypatch):
    client.create_bucket(Bucket="models")
    old = "backups/mlflow/20200101T000000Z.dump"
    client.put_object(Bucket="models", Key=old, Body=b"PGDMP")
    backup = script("base/backup/upload")
    monkeypatch.setattr(backup, "ALWAYS_KEPT", 0)
    (tmp_path / "dump").write_bytes(b"")
    with pytest.raises(ValueError, match="is no dump"):
        backup.main([str(tmp_path / "dump")], {"FPNAS_STORAGE": "s3://models"})
    assert keys(client) == [old]
    (tmp_path / "dump").write_bytes(b"PGDMP")
    backup.main([str(tmp_path / "dump")], {"FPNAS_STORAGE": "s3://models"})
    assert old not in keys(client)


@pytest.fixture
def database(monkeypatch):
    """A stand-in for psycopg2; returns what was done, in order."""
    done = []

    class Connection:
        def cursor(self):
            return self

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def execute(self, statement, parameters):
            done.append(statement.partition("(")[0])

        def close(self):
            done.append("close")

    module = types.ModuleType("psycopg2")
    module.connect = lambda address: done.append(f"connect {address}".strip()) or Connection()
    monkeypatch.setitem(sys.modules, "psycopg2", module)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql+psycopg2://")
    return done


def test_tables_are_migrated_under_a_lock(database, monkeypatch):
    migrate = script("base/mlflow/migrate")
    monkeypatch.setattr(subprocess, "run", lambda command, check: database.append(command))
    migrate.main()
    upgrade = ["mlflow", "db", "upgrade", "postgresql+psycopg2://"]
    assert database == ["connect", "SELECT pg_advisory_lock", upgrade, "close"]


def test_a_failed_migration_gives_the_lock_back_and_fails(database, monkeypatch):
    migrate = script("base/mlflow/migrate")

    def fail(command, check):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(subprocess.CalledProcessError):
        migrate.main()
    assert database[-1] == "close"
