"""Retraining on Kubeflow Pipelines: a stand-in for its API, and a real registry."""

from __future__ import annotations

import json

import pytest
from moto.server import ThreadedMotoServer

from fpnas import cli, tracking
from fpnas.errors import ServiceDownError
from fpnas.registry import version_with_alias
from fpnas.stages.fingerprint import fingerprint_for
from fpnas.storage import connect
from pipelines import kfp_runs
from pipelines.kfp_server import Server
from pipelines.plan import Request, make_plan

from .kfp_stub import Stub

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
NAME = "fp-nas-t0"


class Cloud:
    """A cluster whose runs end as they are told, and register what they are told."""

    def __init__(self, folder, monkeypatch):
        self.stub, self.state, self.registers = Stub(), "SUCCEEDED", None
        self.place = tracking.initialise()
        self.summary = folder / "summary.md"
        monkeypatch.setattr(
            kfp_runs,
            "server_at",
            lambda endpoint, namespace: Server(self.stub.url, wait=self.end_runs),
        )
        self._monkeypatch = monkeypatch

    def end_runs(self, _):
        for run in self.stub.things["runs"]:
            if run["state"] == "PENDING":
                if self.registers:
                    self.registers()
                run["state"] = self.state
                run["error"] = {"message": "out of memory"} if self.state == "FAILED" else {}

    def begin(self, *overrides):
        """A run that somebody started before, with older code."""
        name = make_plan(Request(overrides=overrides)).info.run_id
        run = {"run_id": "older", "display_name": name, "state": "PENDING"}
        self.stub.things["runs"].append(run)

    def register(self, top1, *overrides, champion=True):
        """Registers what the stage register would, without a model."""
        client = tracking.connect_client(self.place.uri)()
        made = fingerprint_for(make_plan(Request(overrides=overrides)).configs, connect())
        tags = {
            **made.tags(),
            "top1": str(top1),
            "macs": "100",
            "num_val_images": "1000",
            "dataset_digest": "d",
            "promotion": "better" if champion else "worse",
        }
        if not client.search_registered_models(f"name = '{NAME}'"):
            client.create_registered_model(NAME)
        run = client.create_run(self.place.experiment_id)
        version = client.create_model_version(NAME, "file:///m", run.info.run_id, tags=tags)
        if champion:
            client.set_registered_model_alias(NAME, "champion", version.version)

    def retrain(self, *words, capsys):
        words = ("retrain", "--engine", "kfp", "--json", "--summary", str(self.summary), *words)
        self._monkeypatch.setattr("sys.argv", ["fpnas", *words])
        try:
            cli.main()
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
        output, errors = capsys.readouterr()
        return status, json.loads(output) if output else None, " ".join(errors.split())


@pytest.fixture(scope="module")
def storage():
    """The environment of an S3 server, which has the bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environ = {
        "S3_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    connect(environ).create_bucket()
    yield environ
    server.stop()


@pytest.fixture
def cloud(tmp_path, monkeypatch, storage):
    for name, value in storage.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FPNAS_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'registry.db'}")
    cloud = Cloud(tmp_path, monkeypatch)
    yield cloud
    cloud.stub.close()


def test_what_changed_is_submitted_and_what_did_not_is_not(cloud, capsys):
    cloud.register(0.5)
    status, document, _ = cloud.retrain(capsys=capsys)
    assert (status, document["changed"], document["retrained"]) == (0, False, False)
    assert cloud.stub.posts == []

    more = ("--set", "recipe.epochs=26")
    cloud.registers = lambda: cloud.register(0.6, more[1])
    status, document, _ = cloud.retrain(*more, capsys=capsys)
    assert status == 0
    assert document["differences"] == ["recipe.epochs: 25 -> 26"]
    assert (document["promoted"], document["reason"]) == (True, "better")
    assert document["challenger"]["top1"] == 0.6
    assert document["noise"] == pytest.approx((0.5 * 0.5 / 1000 + 0.6 * 0.4 / 1000) ** 0.5)
    assert version_with_alias(cloud.place, NAME, "champion").version == 2
    text = cloud.summary.read_text()
    assert "| top-1 | 50.0 % | 60.0 % |" in text
    assert "the noise is 2.2 points" in text
    assert len(cloud.stub.things["runs"]) == 1
    assert not cloud.retrain(*more, capsys=capsys)[1]["changed"]
    assert len(cloud.stub.things["runs"]) == 1


def test_a_worse_one_leaves_the_champion(cloud, capsys):
    cloud.register(0.5)
    more = ("--set", "recipe.epochs=26")
    cloud.registers = lambda: cloud.register(0.4, more[1], champion=False)
    _, document, _ = cloud.retrain(*more, capsys=capsys)
    assert (document["promoted"], document["reason"]) == (False, "worse")
    assert "version 1 stays the champion" in cloud.summary.read_text()


@pytest.mark.parametrize(
    ("state", "expected", "words"),
    [("FAILED", 1, "out of memory"), ("CANCELED", 75, "was cancelled")],
)
def test_a_run_that_does_not_succeed(cloud, capsys, state, expected, words):
    cloud.state = state
    status, document, errors = cloud.retrain(capsys=capsys)
    assert (status, document) == (expected, None)
    assert words in errors
    assert "failed" in cloud.summary.read_text()
    assert words in cloud.summary.read_text()


def test_images_of_other_code_are_noticed(cloud, capsys):
    cloud.register(0.5)
    status, _, errors = cloud.retrain("--set", "recipe.epochs=26", capsys=capsys)
    assert status == 1
    assert "no version with the fingerprint" in errors
    assert "build and push them" in errors


@pytest.mark.parametrize("ended", ["SUCCEEDED", "FAILED"])
def test_a_run_with_older_code_is_waited_for_and_followed_by_one_more(cloud, capsys, ended):
    cloud.register(0.5)
    change = "recipe.epochs=26"
    cloud.begin(change)

    def register():
        cloud.state = ended if len(cloud.stub.things["runs"]) == 1 else "SUCCEEDED"
        if len(cloud.stub.things["runs"]) == 2:
            cloud.register(0.6, change)

    cloud.registers = register
    status, document, _ = cloud.retrain("--set", change, capsys=capsys)
    assert (status, document["promoted"]) == (0, True)
    assert len(cloud.stub.things["runs"]) == 2


def test_a_run_under_way_that_makes_what_is_asked_for_is_the_only_one(cloud, capsys):
    cloud.begin()
    cloud.registers = lambda: cloud.register(0.5)
    assert cloud.retrain(capsys=capsys)[0] == 0
    assert len(cloud.stub.things["runs"]) == 1


def test_no_run_is_made_in_place_of_one_that_was_cancelled(cloud, capsys):
    cloud.begin()
    cloud.state = "CANCELED"
    assert cloud.retrain(capsys=capsys)[0] == 75
    assert len(cloud.stub.things["runs"]) == 1


def test_without_storage_nothing_is_submitted(cloud, capsys, monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://127.0.0.1:9")
    status, _, errors = cloud.retrain(capsys=capsys)
    assert status == 2
    assert "S3_ENDPOINT_URL=http://127.0.0.1:9" in errors
    assert cloud.stub.posts == []


def test_other_code_is_run_again_under_the_same_name(cloud, capsys, monkeypatch):
    cloud.registers = lambda: cloud.register(0.5)
    cloud.retrain(capsys=capsys)
    monkeypatch.setattr("fpnas.stages.base.code_version", lambda module: f"new {module}")
    status, document, _ = cloud.retrain(capsys=capsys)
    assert status == 0
    (line,) = document["differences"]
    assert line.startswith("code: that of prepare, coarse")
    first, second = cloud.stub.things["runs"]
    assert first["display_name"] == second["display_name"]


def test_a_registry_that_went_away_in_the_middle_is_told_on_the_job_s_page(
    cloud, capsys, monkeypatch
):
    def run(*_):
        raise ServiceDownError("MLflow is away; `fpnas register tiny-t0-1` finishes the run.")

    monkeypatch.setattr("pipelines.run.run", run)
    cloud.register(0.5)
    status, document, errors = cloud.retrain(
        "--engine", "local", "--set", "recipe.epochs=26", capsys=capsys
    )
    assert (status, document) == (1, None)
    assert "`fpnas register tiny-t0-1` finishes the run" in errors
    assert "`fpnas register tiny-t0-1` finishes the run" in cloud.summary.read_text()


def test_without_a_registry_nothing_is_submitted(cloud, capsys, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    status, _, errors = cloud.retrain(capsys=capsys)
    assert status == 2
    assert "MLFLOW_TRACKING_URI" in errors
    assert cloud.stub.posts == []


def test_pictures_of_this_machine_are_refused(cloud, capsys, tmp_path):
    status, _, errors = cloud.retrain("--data", str(tmp_path), capsys=capsys)
    assert status == 2
    assert "no pod of a cluster can read it" in errors
    assert cloud.stub.posts == []
