"""Tracking against the real MLflow on sqlite, with artifacts over the real S3 protocol."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from moto.server import ThreadedMotoServer

import fpnas.tracking as tracking_module
from fpnas.errors import InputError
from fpnas.mlflow_pages import compare_url, experiment_url, run_url
from fpnas.registry import register_model
from fpnas.services import mlflow_server
from fpnas.storage import connect
from fpnas.tracking import OWN_SERVER, Run, initialise, registry_name, tracking_uri

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]


@pytest.fixture(scope="module")
def environ(tmp_path_factory):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in {
            "S3_ENDPOINT_URL": f"http://{host}:{port}",
            "MLFLOW_S3_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "FPNAS_STORAGE": "s3://tracking/root",
            "FPNAS_HOME": str(tmp_path_factory.mktemp("tracking")),
        }.items():
            patch.setenv(name, value)
        connect(os.environ).create_bucket()
        yield dict(os.environ)
    server.stop()


@pytest.fixture(scope="module")
def tracking(environ):
    return initialise(environ)


@pytest.fixture(scope="module")
def client(tracking):
    return MlflowClient(tracking.uri)


@pytest.fixture
def run(tracking):
    return Run.start_or_resume(tracking, name="a run", tags={"stage": "coarse"})


def test_addresses(tmp_path):
    assert tracking_uri({"MLFLOW_TRACKING_URI": "http://a:1"}) == "http://a:1"
    assert tracking_uri({"FPNAS_HOME": str(tmp_path)}) == f"sqlite:///{tmp_path}/mlflow.db"
    assert experiment_url("http://a:1/", "7") == (
        "http://a:1/#/experiments/7/runs?compareRunsMode=CHART&workflowType=machine_learning"
    )
    assert run_url("http://a:1", "7", "r") == (
        "http://a:1/#/experiments/7/runs/r?workflowType=machine_learning"
    )
    assert compare_url("http://a", "7", ["r", "s"]) == (
        'http://a/#/compare-runs?runs=["r","s"]&experiments=["7"]&workflowType=machine_learning'
    )


def test_initialise_is_repeatable_and_puts_artifacts_on_s3(environ, tracking, client):
    assert initialise(environ) == tracking
    assert tracking.experiment == "fpnas"
    experiment = client.get_experiment(tracking.experiment_id)
    assert experiment.artifact_location == "s3://tracking/root/mlflow"


@pytest.mark.slow
def test_a_server_keeps_the_artifacts_itself(environ, monkeypatch, tmp_path):
    with mlflow_server(tmp_path, environ=environ) as server:
        elsewhere = {**environ, "MLFLOW_TRACKING_URI": server.url}
        place = initialise(elsewhere)
        own = initialise({**elsewhere, OWN_SERVER: server.url, "FPNAS_EXPERIMENT": "own"})
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "FPNAS_STORAGE"):
            monkeypatch.delenv(key)
        client = MlflowClient(server.url)
        # What this machine's own server has kept must be found without it.
        kept = client.get_experiment(own.experiment_id).artifact_location
        assert kept == "s3://tracking/root/mlflow"
        run = Run.start_or_resume(place, name="without keys")
        note = tmp_path / "note.txt"
        note.write_text("hello")
        registered = register_model(
            place,
            run.run_id,
            torch.nn.Flatten(),
            name="through-a-server",
            input_example=np.zeros((2, 3, 8, 8), dtype=np.float32),
            digest="d",
            files=[note],
        )
        back = client.download_artifacts(run.run_id, "exported/note.txt", str(tmp_path))
        assert Path(back).read_text() == "hello"
        uri = client.get_run(run.run_id).info.artifact_uri
    assert registered.version == 1
    assert uri.startswith("mlflow-artifacts:/")
    stored = [found.key for found in connect(environ).list("mlflow/")]
    assert [key for key in stored if key.endswith(f"{run.run_id}/artifacts/exported/note.txt")]


def test_concurrent_first_writers(environ, tmp_path):
    code = "from fpnas.tracking import initialise; print(initialise().experiment_id)"
    fresh = {**environ, "FPNAS_HOME": str(tmp_path)}
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=fresh, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate()[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert outputs[0] == outputs[1] != ""


def test_deleted_experiment_is_bad_input(environ, tracking, client):
    gone = initialise({**environ, "FPNAS_EXPERIMENT": "gone"})
    client.delete_experiment(gone.experiment_id)
    with pytest.raises(InputError, match="mlflow experiments restore") as caught:
        initialise({**environ, "FPNAS_EXPERIMENT": "gone"})
    assert caught.value.field == "FPNAS_EXPERIMENT"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:1", "nonsense://x"])
def test_unusable_address_is_bad_input(environ, monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError) as caught:
        initialise({**environ, "MLFLOW_TRACKING_URI": uri})
    assert caught.value.field == "MLFLOW_TRACKING_URI"


def test_nested_run_with_parameters_and_tags(tracking, client, run):
    child = Run.start_or_resume(tracking, name="child", parent_run_id=run.run_id)
    child.log_params(
        {
            "search": {"steps": 3, "rates": [0.1, 0.2]},
            "name": "x" * 9000,
            "secret_access_key": "hidden",
            "inner": {"api_key": "hidden", "token": "hidden", "PASSWORD": "hidden"},
            "monkey": "banana",
        }
    )
    child.set_tags({"macs": 12})
    data = client.get_run(child.run_id).data
    assert data.tags["mlflow.parentRunId"] == run.run_id
    assert data.tags["macs"] == "12"
    assert data.params["search.steps"] == "3"
    assert json.loads(data.params["search.rates"]) == [0.1, 0.2]
    assert len(data.params["name"]) == 6000
    assert data.params["monkey"] == "banana"
    assert "hidden" not in str(data.params)


def test_metrics_are_sent_in_batches(client, run, monkeypatch):
    sent = []
    real = run._client()
    monkeypatch.setattr(
        run, "_client", lambda: Recorder(real, lambda metrics: sent.append(len(metrics)))
    )
    for step in range(1500):
        run.log_metrics(step, {"loss": 1 / (step + 1)})
    assert sent == [1000]
    assert run.finish()
    assert sent == [1000, 500]
    history = client.get_metric_history(run.run_id, "loss")
    assert [metric.step for metric in history] == list(range(1500))
    assert client.get_run(run.run_id).info.status == "FINISHED"


class Recorder:
    """A client that tells of metrics before it sends them."""

    def __init__(self, real, tell):
        self._real, self._tell = real, tell

    def log_batch(self, run_id, metrics=(), **others):
        if metrics:
            self._tell(metrics)
        return self._real.log_batch(run_id, metrics=metrics, **others)

    def __getattr__(self, name):
        return getattr(self._real, name)


def test_outage_in_mid_run_loses_no_metric_and_warns_once(client, run, monkeypatch, caplog):
    caplog.set_level(logging.WARNING, logger=tracking_module.__name__)
    real = run._client()
    away = [True]

    def refuse(_):
        if away[0]:
            raise ConnectionError("away")

    monkeypatch.setattr(run, "_client", lambda: Recorder(real, refuse))
    for step in range(3):
        run.log_metrics(step, {"loss": float(step)})
        assert run.flush() is False
    warnings = [record for record in caplog.records if record.name == tracking_module.__name__]
    assert len(warnings) == 1
    assert "away" in warnings[0].getMessage()
    away[0] = False
    run.log_metrics(3, {"loss": 3.0})
    assert run.finish()
    assert [m.value for m in client.get_metric_history(run.run_id, "loss")] == [0, 1, 2, 3]


def test_waiting_metrics_are_bounded(run, monkeypatch):
    monkeypatch.setattr(tracking_module, "_MAX_WAITING", 5)
    for step in range(9):
        run.log_metrics(step, {"loss": 0.0})
    assert [metric.step for metric in run._waiting] == [4, 5, 6, 7, 8]


def test_run_is_resumed(tracking, client, run):
    run.log_metrics(0, {"loss": 1.0})
    run.finish("KILLED")
    again = Run.start_or_resume(tracking, name="a run", run_id=run.run_id, tags={"try": "2"})
    assert again.run_id == run.run_id
    again.log_metrics(1, {"loss": 0.5})
    again.flush()
    found = client.get_run(run.run_id)
    assert found.info.status == "RUNNING"
    assert found.data.tags["try"] == "2"
    assert len(client.get_metric_history(run.run_id, "loss")) == 2
    with pytest.raises(InputError, match="knows the run"):
        Run.start_or_resume(tracking, name="x", run_id="0" * 32)


def test_files_arrive_on_s3(environ, client, run, tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    (tmp_path / "a.txt").write_text("hello")
    assert run.log_artifact(tmp_path / "a.txt", "folder")
    assert run.log_text("<p>", "report.html")
    assert run.log_figure(Figure(), "figure.png")
    names = [found.path for found in client.list_artifacts(run.run_id)]
    assert names == ["figure.png", "folder", "report.html"]
    stored = [found.key for found in connect(environ).list("mlflow/")]
    assert any(key.endswith("folder/a.txt") for key in stored)


def test_file_that_does_not_arrive_is_no_crash(run, tmp_path, caplog):
    assert run.log_artifact(tmp_path / "missing.txt") is False
    assert "missing.txt" in caplog.text


# MLflow warns of the type hints in its own code when it is first imported.
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")
def test_registered_model_computes_the_same(tracking, client, run):
    import mlflow.pytorch

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2),
        torch.nn.BatchNorm2d(4),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 5),
    )
    example = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    arguments = {"name": "net", "input_example": example, "aliases": ["champion"]}
    one = {**arguments, "digest": "d1", "description": "Small."}
    first = register_model(tracking, run.run_id, model, tags={"macs": "7"}, **one)
    # What was registered before is found, and brought up to date.
    again = register_model(tracking, run.run_id, model, tags={"macs": "8"}, **one)
    assert again == first
    second = register_model(tracking, run.run_id, model, digest="d2", **arguments)
    assert (first.version, second.version) == (1, 2)
    version = client.get_model_version("net", "1")
    assert version.tags == {"macs": "8", "model_digest": "d1"}
    assert version.description == "Small."
    elsewhere = {**arguments, "name": "net2", "aliases": ()}
    assert register_model(tracking, run.run_id, model, digest="d1", **elsewhere).version == 1
    assert client.get_model_version_by_alias("net", "champion").version == second.version
    assert client.get_run(run.run_id).info.status == "RUNNING"
    loaded = mlflow.pytorch.load_model("models:/net@champion")
    images = torch.rand(5, 3, 16, 16)  # another batch size than the example's
    torch.testing.assert_close(loaded(images), model.eval()(images))


def test_model_with_a_batch_of_one_is_refused(tracking, run):
    example = np.zeros((1, 3, 8, 8), dtype=np.float32)
    with pytest.raises(ValueError, match="batch of 1"):
        register_model(
            tracking, run.run_id, torch.nn.Flatten(), name="x", input_example=example, digest="d"
        )


def test_the_name_of_a_registry_tells_addresses_apart_and_hides_them():
    assert registry_name({}) == ""
    names = {registry_name({"MLFLOW_TRACKING_URI": f"http://user:secret@{h}"}) for h in "ab"}
    assert len(names) == 2
    assert not any("secret" in name or name == "a" for name in names)
    own = "http://127.0.0.1:40001"
    environ = {"MLFLOW_TRACKING_URI": own, OWN_SERVER: own}
    assert registry_name(environ) == ""
    assert registry_name({**environ, OWN_SERVER: "http://127.0.0.1:40002"}) != ""


def test_a_page_has_no_password():
    for page in (
        run_url("https://user:secret@host/mlflow/", "1", "r"),
        experiment_url("https://user:secret@host/mlflow/", "1"),
        compare_url("https://user:secret@host/mlflow/", "1", ["r"]),
    ):
        assert page.startswith("https://host/mlflow/#/")
