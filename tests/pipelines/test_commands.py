"""The commands for Kubeflow Pipelines, with a stand-in for its API."""

from __future__ import annotations

import json

import pytest

from fpnas.cli import main
from fpnas.errors import InputError
from pipelines import commands, kfp_runs
from pipelines.engine_checks import engine_checks
from pipelines.kfp_server import Server
from pipelines.plan import Request, make_plan

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def test_the_command_prints_one_document_and_finds_its_run_again(stub, capsys):
    for made in (True, False):
        commands.submit(endpoint=stub.url, as_json=True)
        document = json.loads(capsys.readouterr().out)
        assert document["made"] is made
        assert document["run"] == make_plan(Request()).info.run_id
    run = stub.things["runs"][0]
    assert run["runtime_config"]["pipeline_root"] == "s3://fpnas/kfp"
    assert run["service_account"] == "fpnas-pipeline"
    assert run["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]
    commands.cancel(document["run"], endpoint=stub.url, as_json=True)
    assert json.loads(capsys.readouterr().out)["state"] == "CANCELED"


def ending(stub, state):
    """A server whose runs end so at the first look."""

    def sleep(_):
        for run in stub.things["runs"]:
            run["state"] = state
            run["error"] = {"message": "out of memory"} if state == "FAILED" else {}

    return lambda endpoint, namespace: Server(endpoint, namespace=namespace, wait=sleep)


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [
        ("SUCCEEDED", 0, ""),
        ("FAILED", 1, "failed: out of memory"),
        ("CANCELED", 75, "was cancelled; submitting it again goes on"),
    ],
)
def test_waiting_ends_as_the_run_did(stub, monkeypatch, capsys, state, status, words):
    monkeypatch.setattr(kfp_runs, "server_at", ending(stub, state))
    ended, output, errors = fpnas(
        "submit", "--endpoint", stub.url, "--wait", "--json", monkeypatch=monkeypatch, capsys=capsys
    )
    assert ended == status
    assert json.loads(output)["state"] == state
    assert words in errors


def fpnas(*words, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fpnas", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    output, errors = capsys.readouterr()
    return ended.value.code or 0, output, " ".join(errors.split())


@pytest.mark.parametrize(
    ("command", "name"), [(("run",), "tiny-t0-"), (("baseline", "mobilenet_v2"), "mobilenet_v2-")]
)
def test_one_word_takes_a_run_to_kfp(stub, monkeypatch, capsys, command, name):
    monkeypatch.setattr(kfp_runs, "server_at", ending(stub, "SUCCEEDED"))
    monkeypatch.setenv("KF_PIPELINES_ENDPOINT", stub.url)
    words = (*command, "--engine", "kfp", "--json")
    for made in (True, False):
        status, output, errors = fpnas(*words, monkeypatch=monkeypatch, capsys=capsys)
        document = json.loads(output)
        assert (status, document["state"], document["made"]) == (0, "SUCCEEDED", made)
        assert document["run"].startswith(name)
        assert "waiting for its end" in errors
    assert len(stub.things["runs"]) == 1


def test_the_doctor_asks_the_server(stub):
    (found,) = engine_checks("kfp", {"KF_PIPELINES_ENDPOINT": stub.url})
    assert (found.status, found.detail) == ("ok", "version 2.17.0 at http://127.0.0.1")
    stub.tag = "2.3.0"
    (found,) = engine_checks("kfp", {"KF_PIPELINES_ENDPOINT": stub.url})
    assert found.status == "fail"
    assert "older than the SDK" in found.detail
    (found,) = engine_checks("kfp", {})
    assert (found.status, "port-forward" in found.fix) == ("fail", True)
    with pytest.raises(InputError, match="ENGINE=spark is not available"):
        engine_checks("spark", {})


def test_a_baseline_is_submitted(stub, capsys):
    commands.submit(endpoint=stub.url, baseline="mobilenet_v2", as_json=True)
    document = json.loads(capsys.readouterr().out)
    run = stub.things["runs"][0]
    assert run["display_name"] == document["run"]
    assert document["run"].startswith("mobilenet_v2-")
    specification = run["pipeline_spec"]["pipeline_spec"]
    assert set(specification["root"]["dag"]["tasks"]) == {"prepare", "baseline"}
    assert set(run["runtime_config"]["parameters"]) == {"run", "prepare_config", "baseline_config"}
    commands.submit(endpoint=stub.url, baseline="mobilenet_v2", as_json=True)
    assert json.loads(capsys.readouterr().out)["made"] is False
    with pytest.raises(InputError, match="mobilenet_v9"):
        commands.submit(endpoint=stub.url, baseline="mobilenet_v9")


def test_a_schedule_is_made_found_and_removed(stub, capsys):
    for made in (True, False):
        commands.schedule("0 3 * * 1", endpoint=stub.url, baseline="mobilenet_v2", as_json=True)
        document = json.loads(capsys.readouterr().out)
        assert document["made"] is made
        assert document["run"].startswith("mobilenet_v2-")
    with pytest.raises(InputError, match="other images, resources or options"):
        commands.schedule(
            "0 3 * * 1",
            endpoint=stub.url,
            baseline="mobilenet_v2",
            overrides=["resources.baseline.memory=20Gi"],
        )
    commands.schedule(
        "0 3 * * 1", endpoint=stub.url, baseline="mobilenet_v2", remove=True, as_json=True
    )
    assert json.loads(capsys.readouterr().out)["removed"] == ["recurringruns-0"]


@pytest.mark.parametrize(
    "command",
    [
        lambda **more: commands.status("r", **more),
        lambda **more: commands.cancel("r", **more),
        lambda **more: commands.schedule("0 3 * * 1", remove=True, **more),
    ],
)
def test_looking_makes_no_experiment(stub, command):
    with pytest.raises(InputError, match="--experiment=fpnsa is not an experiment of KFP"):
        command(endpoint=stub.url, experiment="fpnsa")
    assert stub.things["experiments"] == []
