import shutil
from types import SimpleNamespace

import pytest

import fpnas.doctor as doctor
from fpnas.doctor import checks

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    home = tmp_path_factory.mktemp("doctor")
    return {check.name: check for check in checks({"FPNAS_HOME": str(home)})}


def test_a_good_machine_has_no_failure(found):
    assert [check for check in found.values() if check.status == "fail"] == []
    assert {"python", "package torch", "cpu", "disk", "storage", "mlflow"} <= found.keys()
    assert "rclone" in found["storage"].detail
    assert "sqlite" in found["mlflow"].detail


def test_what_is_not_ok_says_what_to_do(found):
    assert all(bool(check.fix) == (check.status != "ok") for check in found.values())


def only(monkeypatch, *names):
    """Leaves out the slow checks."""
    for name in {"_import_time", "_devices", "_mlflow", "_storage"} - set(names):
        monkeypatch.setattr(doctor, name, lambda *_: [])


def status(environ):
    return {check.name: check for check in checks(environ)}


def test_unreachable_services_fail_with_a_fix(tmp_path, monkeypatch):
    only(monkeypatch, "_mlflow", "_storage")
    environ = {
        "FPNAS_HOME": str(tmp_path),
        "S3_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "very-secret-value",
        "MLFLOW_TRACKING_URI": "http://user:very-secret-value@127.0.0.1:1",
    }
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    found = status(environ)
    assert found["storage"].status == found["mlflow"].status == "fail"
    assert found["storage"].detail.startswith("S3_ENDPOINT_URL=http://127.0.0.1:1")
    assert found["storage"].fix.startswith("start the server")
    assert found["mlflow"].detail.startswith("MLFLOW_TRACKING_URI=http://(hidden)@127.0.0.1:1")
    assert "very-secret-value" not in str(found)


def test_home_that_cannot_be_written(tmp_path, monkeypatch):
    only(monkeypatch)
    (tmp_path / "file").write_text("")
    check = status({"FPNAS_HOME": str(tmp_path / "file" / "home")})["disk"]
    assert check.status == "fail"
    assert "FPNAS_HOME" in check.fix


@pytest.mark.parametrize(("free", "expected"), [(1 << 20, "fail"), (5 << 30, "warn")])
def test_little_space(tmp_path, monkeypatch, free, expected):
    only(monkeypatch)
    usage = SimpleNamespace(total=1 << 20, used=0, free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = status({"FPNAS_HOME": str(tmp_path)})
    assert found["disk"].status == expected
    assert found["shared memory"].status == "warn"


def test_missing_and_wrong_packages(tmp_path, monkeypatch):
    only(monkeypatch)
    needed = ["numpy>=999", "no-such-package>=1", "pandas>=2", 'kfp==1; extra == "pipeline"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: needed)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = status({"FPNAS_HOME": str(tmp_path)})
    assert found["package numpy"].status == "fail"
    assert found["package no-such-package"].detail == "not installed"
    assert found["package pandas"].status == "ok"
    assert "package kfp" not in found
    assert found["optional kfp"].status == "warn"
    assert "fpnas[pipeline]" in found["optional kfp"].fix


def test_a_check_that_breaks_is_a_finding(tmp_path, monkeypatch):
    only(monkeypatch)

    def broken():
        raise RuntimeError("surprise")

    monkeypatch.setattr(doctor, "_open_files", broken)
    check = status({"FPNAS_HOME": str(tmp_path)})["open files"]
    assert check.status == "fail"
    assert "surprise" in check.detail
