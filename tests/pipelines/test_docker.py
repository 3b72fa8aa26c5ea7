"""The docker engine with a stand-in for docker's client: ends of containers, images, bad input."""

from __future__ import annotations

import contextlib
import os
import socket
from types import SimpleNamespace

import docker
import pytest
import requests.exceptions

from components.images import CODE_LABEL, FAMILIES, code_digest, image
from fpnas.errors import FpnasError, InputError
from fpnas.stages.base import STAGES
from pipelines import container_engine
from pipelines import docker as docker_engine
from pipelines.container_engine import checks, find_engine, sockets, stage_images
from pipelines.docker import (
    FOLDER_LABEL,
    ContainerRuns,
    check_tracking,
    remove_left_over,
)
from pipelines.engine import engine_named
from pipelines.plan import Request, make_plan

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

COMMAND = ["sh", "-ec", "...", "--executor_input", "{}", "--function_to_execute", "coarse"]


class Container:
    """One that ends as it is told; ``status`` may be an exception."""

    def __init__(self, status=0, state=None, log=b""):
        self.status, self.attrs, self.log = status, {"State": state or {}}, log
        self.calls = []

    def start(self):
        self.calls.append("start")

    def wait(self):
        status = self.status.pop(0) if isinstance(self.status, list) else self.status
        if isinstance(status, Exception):
            raise status
        return {"StatusCode": status}

    def reload(self):
        pass

    def logs(self):
        return self.log

    def remove(self, force=False):
        self.calls.append(f"remove force={force}")


class Client:
    """Docker's client with containers and images that are given."""

    def __init__(self, container=None, images=None):
        self.made, self.filters = [], []
        self.containers = SimpleNamespace(create=self.create, list=self.list)
        self.images = SimpleNamespace(get=self.get)
        self._container, self._images = container, images or {}

    def create(self, image, command, **arguments):
        self.made.append((image, command, arguments))
        return self._container

    def list(self, **arguments):
        self.filters.append(arguments)
        return [self._container]

    def get(self, name):
        if name not in self._images:
            raise docker.errors.ImageNotFound(name)
        return self._images[name]


@pytest.fixture(scope="module")
def plan():
    return make_plan(Request())


@pytest.fixture
def runs(plan, tmp_path):
    return ContainerRuns("unix:///x.sock", plan, tmp_path)


@pytest.mark.parametrize(
    ("status", "state", "words"),
    [
        (0, {}, ""),
        (1, {}, "ended with exit status 1"),
        (137, {"OOMKilled": True}, "ran out of memory"),
        (137, {"OOMKilled": False}, "was killed, by somebody or because the machine ran out"),
        (139, {}, "ended by signal 11"),
    ],
)
def test_how_a_container_ended_is_known_and_it_is_removed(runs, capsys, status, state, words):
    container = Container(status, state, b"no such module\n")
    assert runs.run(Client(container), "id", COMMAND, {}, user="1:1") == status
    assert words in runs.last_words("coarse")
    assert bool(words) == bool(runs.last_words("coarse"))
    assert runs.last_words("fine") == ""
    assert container.calls == ["start", "remove force=True"]
    assert "no such module" in capsys.readouterr().out


def test_a_container_is_labelled_and_has_its_stages_shared_memory(runs, plan, tmp_path):
    client = Client(Container())
    runs.run(client, "id", COMMAND, {}, user="1:1", environment={"A": "b"})
    ((name, command, arguments),) = client.made
    assert (name, command) == ("id", COMMAND)
    assert arguments.pop("labels") == {
        "fpnas.io/stage": "coarse",
        "fpnas.io/run": plan.info.run_id,
        FOLDER_LABEL: str(tmp_path),
    }
    assert arguments == {"user": "1:1", "environment": {"A": "b"}, "shm_size": 4 << 30}


def test_a_container_that_somebody_removes_has_failed(runs):
    container = Container(docker.errors.NotFound("gone"))
    assert runs.run(Client(container), "id", COMMAND, {}) == 1
    assert "removed by somebody" in runs.last_words("coarse")


def test_an_engine_that_is_started_again_is_waited_for(runs, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    away = [requests.exceptions.ConnectionError(), requests.exceptions.ConnectionError(), 3]
    assert runs.run(Client(Container(away)), "id", COMMAND, {}) == 3


def test_an_engine_that_stays_away_ends_the_run(runs, monkeypatch):
    monkeypatch.setattr(docker_engine, "_ENGINE_BACK_SECONDS", -1.0)
    container = Container(requests.exceptions.ConnectionError())
    with pytest.raises(FpnasError, match=r"x\.sock does not answer any more.*kept"):
        runs.run(Client(container), "id", COMMAND, {})


def test_what_an_engine_that_was_killed_has_left_is_removed(tmp_path):
    client = Client(left := Container())
    remove_left_over(client, tmp_path)
    assert client.filters[0]["filters"] == {"label": f"{FOLDER_LABEL}={tmp_path}"}
    assert client.filters[0]["all"] is True
    assert left.calls == ["remove force=True"]


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "/somewhere", "postgresql://u:pw@h/d"])
def test_mlflow_in_a_file_is_of_no_use_to_a_container(uri):
    with pytest.raises(InputError, match="is not a server") as caught:
        check_tracking({"MLFLOW_TRACKING_URI": uri})
    assert "pw" not in str(caught.value)
    check_tracking({"MLFLOW_TRACKING_URI": "http://h:5000"})
    check_tracking({})


def test_a_server_that_a_container_cannot_reach_is_named(runs):
    log = b"S3_ENDPOINT_URL [Errno -2] Name or service not known\n"
    client = Client(container := Container(1, log=log))
    environment = {"S3_ENDPOINT_URL": "http://key:pw@s3.inside:9000"}
    arguments = {"environment": environment}
    with pytest.raises(InputError, match=r"cannot be reached from a container.*Name or") as caught:
        runs.check_reach(client, "id", ["S3_ENDPOINT_URL"], arguments)
    assert (caught.value.field, caught.value.value) == ("S3_ENDPOINT_URL", "s3.inside:9000")
    assert "pw" not in str(client.made[0][1])  # of a command everybody sees the words
    assert container.calls == ["start", "remove force=True"]
    runs.check_reach(Client(Container(0)), "id", ["S3_ENDPOINT_URL"], arguments)
    runs.check_reach(client, "id", [], arguments)


def test_sockets_are_those_of_docker_and_podman():
    usual = ["/var/run/docker.sock", "/run/podman/podman.sock"]
    assert list(map(str, sockets({}))) == usual
    assert str(sockets({"XDG_RUNTIME_DIR": "/run/user/1"})[-1]) == "/run/user/1/podman/podman.sock"
    assert list(map(str, sockets({"DOCKER_HOST": "unix:///mine.sock"}))) == ["/mine.sock"]
    with pytest.raises(InputError, match="not a socket of this machine"):
        sockets({"DOCKER_HOST": "tcp://other:2375"})


def test_without_an_engine_the_error_says_where_it_looked(tmp_path, monkeypatch):
    silent, locked = tmp_path / "silent.sock", tmp_path / "locked.sock"
    locked.touch()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(silent))  # and does not listen
        places = [tmp_path / "none.sock", locked, silent]
        monkeypatch.setattr(container_engine, "sockets", lambda _environ: places)
        monkeypatch.setattr(os, "access", lambda path, _mode: path != locked)
        with pytest.raises(InputError) as caught:
            find_engine({})
    message = str(caught.value)
    assert caught.value.field == "ENGINE"
    assert "none.sock (not there)" in message
    assert "locked.sock (no permission" in message
    assert "silent.sock (does not answer" in message
    assert "DOCKER_HOST" in caught.value.fix


def built(prefix="", code=code_digest):
    return {
        prefix + image(family): SimpleNamespace(id=f"sha256:{family}", labels={CODE_LABEL: digest})
        for family in FAMILIES
        if (digest := code(family))
    }


@pytest.mark.parametrize("prefix", ["", "localhost/"])  # as Docker and as Podman names them
def test_every_stage_has_the_image_of_its_family(prefix):
    found = stage_images(Client(images=built(prefix)), "fpnas_pipeline")
    expected = {stage: f"sha256:{family}" for family, own in FAMILIES.items() for stage in own}
    assert found == {stage: expected[stage] for stage in STAGES}


def test_all_images_are_looked_for_before_any_work():
    some = {name: found for name, found in built().items() if "search" not in name}
    del some[image("train")]
    with pytest.raises(InputError, match="make images") as caught:
        stage_images(Client(images=some), "fpnas_pipeline")
    assert caught.value.value == ", ".join(sorted([image("search"), image("train")]))


def test_an_image_with_other_code_is_not_used():
    def of_yesterday(family):
        return "0" * 64 if family == "decode" else code_digest(family)

    with pytest.raises(InputError, match=r"hold other code.*make images") as caught:
        stage_images(Client(images=built(code=of_yesterday)), "fpnas_pipeline")
    assert caught.value.value == image("decode")


def test_the_doctor_looks_at_the_engine_and_at_the_images(monkeypatch):
    @contextlib.contextmanager
    def connected(_address):
        yield client

    client = Client(images=built())
    client.version = lambda: {"Components": [{"Name": "Podman Engine", "Version": "4.3.1"}]}
    monkeypatch.setattr(container_engine, "connected", connected)
    monkeypatch.setattr(container_engine, "find_engine", lambda _environ: "unix:///x.sock")
    assert [check.status for check in checks({})] == ["ok", "ok"]
    assert checks({})[0].detail == "Podman Engine 4.3.1 at unix:///x.sock"
    client = Client(images={})
    client.version = lambda: {"Components": []}
    found = checks({})
    assert [check.status for check in found] == ["ok", "fail"]
    assert "make images" in found[1].fix


def test_the_doctor_says_that_there_is_no_engine(monkeypatch):
    monkeypatch.setattr(container_engine, "sockets", lambda _environ: [])
    (found,) = checks({})
    assert (found.name, found.status) == ("container engine", "fail")
    assert "DOCKER_HOST" in found.fix


def test_unknown_engines_are_told_where_to_go():
    with pytest.raises(InputError, match="fpnas submit"):
        engine_named("kfp")
    with pytest.raises(InputError, match="fpnas compile --engine argo"):
        engine_named("argo")
    with pytest.raises(InputError, match="Legal: local, docker"):
        engine_named("dokcer")
