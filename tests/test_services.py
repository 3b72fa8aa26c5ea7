"""The services a machine starts for itself: the real rclone and the real MLflow server."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from fpnas.errors import InputError
from fpnas.services import (
    ServiceError,
    check_port_free,
    find_rclone,
    local_s3,
    mlflow_server,
)
from fpnas.storage import CheckpointSlot, StorageError, connect

pytestmark = pytest.mark.skipif(find_rclone() is None, reason="needs rclone: fpnas[local]")


def environment(service, home):
    return {**service.environment, "FPNAS_HOME": str(home), "FPNAS_STORAGE": "s3://fpnas/p"}


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, limit_seconds=20.0):
    end = time.monotonic() + limit_seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_local_s3_from_start_to_end(tmp_path):
    with local_s3(tmp_path) as service:
        store = connect(environment(service, tmp_path))
        store.check()
        with store.create("artifacts/x/1", kind="X", config={}, parents={}, code_version="c") as w:
            w.write_json("a.json", {"b": 1})
            artifact = w.commit()
        command = Path(f"/proc/{service.pid}/cmdline").read_text()
        assert service.environment["AWS_SECRET_ACCESS_KEY"] not in command + repr(service)
        assert service.log.exists()
    assert not is_running(service.pid)
    credentials = tmp_path / "credentials.json"
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    with local_s3(tmp_path) as again:
        found = connect(environment(again, tmp_path)).find("artifacts/x/1")
        assert found.digest == artifact.digest
        assert found.read_json("a.json") == {"b": 1}
        assert again.environment["AWS_ACCESS_KEY_ID"] == service.environment["AWS_ACCESS_KEY_ID"]


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_are_refused_and_not_shown(tmp_path, name):
    with (
        local_s3(tmp_path) as service,
        pytest.raises(InputError, match="was refused") as caught,
    ):
        connect({**environment(service, tmp_path), name: "some-wrong-value"}).check()
    assert caught.value.field == "AWS_ACCESS_KEY_ID"
    assert "some-wrong-value" not in str(caught.value)


def test_two_at_once_on_one_home(tmp_path):
    with local_s3(tmp_path) as first, local_s3(tmp_path) as second:
        one = connect(environment(first, tmp_path))
        two = connect(environment(second, tmp_path))
        two.check()
        one.put_bytes("k", b"old")
        assert wait_until(lambda: two.exists("k"))
        two.put_bytes("k", b"new!")
        assert wait_until(lambda: one.get_bytes("k") == b"new!")


def test_port_in_use(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match="in use") as caught, local_s3(tmp_path, port):
            pass
        assert caught.value.field == "S3_PORT"
        with pytest.raises(InputError) as caught, mlflow_server(tmp_path, port, {}):
            pass
        assert caught.value.field == "MLFLOW_PORT"
    check_port_free("S3_PORT", port)
    with local_s3(tmp_path, port) as service:
        assert service.endpoint == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_no_port(port):
    with pytest.raises(InputError, match="1 to 65535"):
        check_port_free("S3_PORT", port)


def test_without_rclone(tmp_path, monkeypatch):
    monkeypatch.setattr("fpnas.services.find_rclone", lambda: None)
    with pytest.raises(InputError, match=r"fpnas\[local\]"), local_s3(tmp_path):
        pass


def test_service_that_does_not_start_shows_its_log(tmp_path, monkeypatch):
    broken = tmp_path / "rclone"
    broken.write_text("#!/bin/sh\necho something is broken\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("fpnas.services.find_rclone", lambda: str(broken))
    with pytest.raises(ServiceError, match="something is broken"), local_s3(tmp_path):
        pass


def test_damaged_credentials(tmp_path):
    (tmp_path / "credentials.json").write_text("{")
    with pytest.raises(InputError, match="delete that file"), local_s3(tmp_path):
        pass


OWNER = """
import sys, threading, time
from pathlib import Path
from fpnas.services import local_s3
def main():
    with local_s3(Path(sys.argv[1])) as service:
        print(service.pid, flush=True)
        time.sleep(600)
threading.Thread(target=main).start()
"""


def test_service_dies_with_a_killed_owner(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert is_running(pid)
        owner.kill()
    assert wait_until(lambda: not is_running(pid))


def test_killed_server_leaves_no_half_object(tmp_path):
    import torch

    with local_s3(tmp_path) as service:
        environ = environment(service, tmp_path)
        connect(environ).put_bytes("object", b"before")
        CheckpointSlot(connect(environ), "k").save({"a": torch.ones(3)}, {"step": 1})
        started = threading.Event()

        def body():
            yield b"x" * (1 << 20)
            started.set()
            time.sleep(0.3)  # the kill comes here; were it late, the upload would still be open
            yield b"y" * (1 << 20)

        def send():
            client = connect(environ).connection.client(max_attempts=1)
            with pytest.raises(Exception, match=r".") as caught:
                client.put_object(Bucket="fpnas", Key="p/object", Body=Slow(body()))
            outcome.append(caught.type)

        outcome = []
        sender = threading.Thread(target=send)
        sender.start()
        assert started.wait(20)
        os.kill(service.pid, signal.SIGKILL)
        sender.join()
        assert outcome
        store = connect(environ)
        store._client = (os.getpid(), store.connection.client(max_attempts=1))
        with pytest.raises(StorageError, match="fpnas doctor"):
            store.get_bytes("object")
    with local_s3(tmp_path) as service:
        store = connect(environment(service, tmp_path))
        assert store.get_bytes("object") == b"before"
        assert CheckpointSlot(store, "k").load()[1] == {"step": 1}
        assert [found.key for found in store.list() if "temp" in found.key] == []


class Slow:
    """A body of 2 MiB that arrives in pieces."""

    def __init__(self, pieces):
        self.pieces = pieces

    def __len__(self):
        return 2 << 20

    def read(self, size=-1):
        return next(self.pieces, b"")

    def tell(self):
        return 0

    def seek(self, *_):
        return 0


def test_stale_uploads_are_swept_and_fresh_ones_kept(tmp_path):
    folder = tmp_path / "s3" / "fpnas"
    folder.mkdir(parents=True)
    stale, fresh = folder / ".rclone_temp_put_1", folder / ".rclone_temp_put_2"
    for path in (stale, fresh):
        path.write_text("half")
    os.utime(stale, (0, 0))
    with local_s3(tmp_path):
        pass
    assert not stale.exists()
    assert fresh.exists()


@pytest.mark.slow
def test_mlflow_server_answers_and_ends(tmp_path):
    with local_s3(tmp_path) as service:
        environ = {**os.environ, **environment(service, tmp_path)}
        with mlflow_server(tmp_path, None, environ) as server:
            with urllib.request.urlopen(f"{server.url}/health", timeout=20) as answer:
                assert answer.status == 200
            assert is_running(server.pid)
        assert not is_running(server.pid)
