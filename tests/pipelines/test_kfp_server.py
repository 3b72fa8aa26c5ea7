"""Runs on Kubeflow Pipelines: whatever is lost on the way, there is one run and a clear end."""

from __future__ import annotations

import pytest

from fpnas.errors import InputError, ServiceDownError
from pipelines.kfp_body import cron_of, run_body
from pipelines.kfp_server import Server
from pipelines.plan import Request, make_plan

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def server(stub):
    return Server(stub.url, wait=lambda _: None)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("pipelines.kfp_http._TIMEOUT_SECONDS", (5.0, 0.5))


def submitted(server, **more):
    return server.submit("tiny-t0-1", server.experiment("fpnas"), {"service_account": "a"}, **more)


def test_the_same_run_is_made_once(stub, server):
    first, made = submitted(server)
    second, made_again = submitted(server)
    assert (made, made_again) == (True, False)
    assert first["run_id"] == second["run_id"]
    assert len(stub.things["runs"]) == len(stub.things["experiments"]) == 1


@pytest.mark.parametrize("fault", ["lost", "cut", "silent", 429, 503])
def test_a_fault_that_can_be_told_from_success_is_lived_through(stub, server, fault):
    experiment = server.experiment("fpnas")
    stub.faults["POST"] = [fault]
    run, made = server.submit("r", experiment, {})
    assert made
    assert [r["run_id"] for r in stub.things["runs"]] == [run["run_id"]]


@pytest.mark.parametrize("fault", [500, 502, 504, "refused", "loop"])
def test_another_fault_ends_clearly_and_the_same_call_makes_one_run(stub, server, fault):
    experiment = server.experiment("fpnas")
    stub.faults["POST"] = [fault]
    with pytest.raises(ServiceDownError, match="KFP at http"):
        server.submit("r", experiment, {})
    assert stub.things["runs"] == []
    assert server.submit("r", experiment, {})[1]
    assert len(stub.things["runs"]) == 1


@pytest.mark.parametrize("fault", ["lost", "cut", "silent"])
def test_a_lost_answer_is_followed_by_a_look_and_no_second_request(stub, server, fault):
    experiment = server.experiment("fpnas")
    stub.posts.clear()
    stub.faults["POST"] = [fault]
    assert server.submit("r", experiment, {})[1]
    assert stub.posts == ["/apis/v2beta1/runs"]


def test_the_run_that_a_lost_answer_made_is_told_from_an_earlier_one(stub, server):
    first, _ = submitted(server)
    stub.things["runs"][0]["state"] = "FAILED"
    stub.faults["POST"] = ["lost"]
    second, made = submitted(server)
    assert made
    assert second["run_id"] != first["run_id"]
    assert len(stub.things["runs"]) == 2


def test_after_success_only_another_run_that_is_asked_for_is_made(stub, server):
    submitted(server)
    stub.things["runs"][0]["state"] = "SUCCEEDED"
    assert not submitted(server)[1]
    assert submitted(server, again=True)[1]


def test_reading_is_repeated(stub, server):
    for faults in ([503, "refused", 502], ["cut", "silent", "loop", "lost"]):
        stub.faults["GET"] = list(faults)
        server.check()
        assert stub.faults["GET"] == []


def test_waiting_lives_through_an_absence_and_ends_with_the_run(stub):
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if pauses.count(15.0) == 3:
            stub.things["runs"][0]["state"] = "SUCCEEDED"

    server = Server(stub.url, wait=sleep)
    run, _ = submitted(server)
    stub.faults["GET"] = [500, 502, "cut", "loop", "silent"]
    assert server.wait(run["run_id"])["state"] == "SUCCEEDED"
    assert pauses.count(15.0) == 3


def test_waiting_for_a_server_that_stays_away_ends_clearly(stub, server):
    run, _ = submitted(server)
    stub.close()
    with pytest.raises(ServiceDownError, match="did not answer to read v2beta1/runs"):
        server.wait(run["run_id"])


def test_the_token_is_read_at_every_request(stub, tmp_path):
    path = tmp_path / "token"
    path.write_text("first\n")

    def renew(_):
        path.write_text("second\n")
        stub.things["runs"][0]["state"] = "SUCCEEDED"

    server = Server(stub.url, path, wait=renew)
    run, _ = submitted(server)
    server.wait(run["run_id"])
    assert stub.tokens[0] == "Bearer first"
    assert stub.tokens[-1] == "Bearer second"
    path.unlink()
    with pytest.raises(InputError, match=r"KF_PIPELINES_SA_TOKEN_PATH=.* cannot be read"):
        server.run(run["run_id"])


def test_a_page_to_log_in_is_told_from_an_answer(stub, server):
    experiment = server.experiment("fpnas")
    for method, call in (
        ("GET", server.check),
        ("GET", lambda: server.wait("runs-0")),
        ("POST", lambda: server.submit("r", experiment, {})),
        ("POST", lambda: server.schedule("r", experiment, "0 0 3 * * 1", {})),
    ):
        stub.faults[method] = ["html"]
        with pytest.raises(InputError, match=r"KF_PIPELINES_SA_TOKEN_PATH=\(not set\) leads to"):
            call()
    assert stub.things["runs"] == stub.things["recurringruns"] == []


@pytest.mark.parametrize("fault", ["lost", "cut", "silent"])
def test_cancelling_twice_and_over_a_lost_answer(stub, server, fault):
    run, _ = submitted(server)
    stub.faults["POST"] = [fault]
    assert server.cancel(run["run_id"])["state"] == "CANCELED"
    assert server.cancel(run["run_id"])["state"] == "CANCELED"
    assert sum("terminate" in path for path in stub.posts) == 1


@pytest.mark.parametrize("fault", ["lost", "cut", "silent"])
def test_one_schedule_a_run(stub, server, fault):
    experiment = server.experiment("fpnas")
    stub.faults["POST"] = [fault]
    found, made = server.schedule("r", experiment, "0 0 3 * * 1", {})
    assert made
    assert found["max_concurrency"] == "1"
    assert found["no_catchup"] is True
    assert not server.schedule("r", experiment, "0 0 3 * * 1", {})[1]
    with pytest.raises(InputError, match="differs from 0 0 3"):
        server.schedule("r", experiment, "0 0 4 * * 1", {})
    assert len(server.unschedule("r", experiment)) == 1
    assert stub.things["recurringruns"] == []


def test_a_schedule_of_something_else_is_not_kept_silently(stub, server):
    experiment = server.experiment("fpnas")
    server.schedule("r", experiment, "0 0 3 * * 1", {"image": "old"})
    with pytest.raises(InputError, match=r"schedule=r starts a pipeline with other .*--remove"):
        server.schedule("r", experiment, "0 0 3 * * 1", {"image": "new"})
    server.unschedule("r", experiment)
    assert server.schedule("r", experiment, "0 0 3 * * 1", {"image": "new"})[1]


@pytest.mark.parametrize("tag", ["1.8.5", "2.3.0"])
def test_an_older_server_is_refused_by_name(stub, server, tag):
    stub.tag = tag
    with pytest.raises(InputError, match="older than the SDK"):
        server.check()


def test_a_server_that_is_not_there(stub):
    stub.close()
    with pytest.raises(ServiceDownError, match="did not answer"):
        Server(stub.url, wait=lambda _: None).check()


@pytest.mark.parametrize("endpoint", ["", "localhost:8888", "ftp://host"])
def test_an_endpoint_that_is_no_address(endpoint):
    with pytest.raises(InputError, match="not the address of a server"):
        Server(endpoint)


def test_a_refused_token_is_bad_input(stub, server):
    stub.faults["GET"] = [403]
    with pytest.raises(InputError, match="403"):
        server.check()


@pytest.mark.parametrize("root", ["/tmp/here", "s3:/fpnas/x", "s3://", "gs://bucket/x"])
def test_a_wrong_pipeline_root(root):
    with pytest.raises(InputError, match="is not on S3"):
        run_body(make_plan(Request()), root, "a", {})


def test_schedules():
    assert cron_of("0 3 * * 1") == "0 0 3 * * 1"
    assert cron_of("30 0 3 * * 1-5") == "30 0 3 * * 1-5"
    for wrong in ("", "daily", "0 3 * *", "0 3 * * ;"):
        with pytest.raises(InputError, match="is not a schedule"):
            cron_of(wrong)
