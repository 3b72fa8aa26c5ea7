"""The pod that starts a TrainJob and waits for it, against a cluster's API over HTTP."""

from __future__ import annotations

import json
import threading
import time

import pytest

from fpnas.errors import InputError, ServiceDownError, StoppedError
from fpnas.stages import train_job
from fpnas.stages.coarse import Config
from fpnas.stages.train_job import JOB, TrainJobError, TrainJobs, complete
from pipelines.plan import Request, make_plan
from pipelines.train_job import train_job as manifest_of

from .conftest import search_config
from .trainer_stub import JOBS, TrainerStub, container

POD = {"FPNAS_POD_NAME": "launcher", "FPNAS_POD_UID": "1-2-3"}


@pytest.fixture
def stub(tmp_path, monkeypatch):
    served = TrainerStub(tmp_path)
    for name, value in served.pod_environment.items():
        monkeypatch.setenv(name, value)
    # The client reads KUBECONFIG once, when it is imported.
    place = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(place, str(served.kubeconfig))
    yield served
    served.close()


@pytest.fixture(scope="module")
def plan():
    return make_plan(Request(overrides=("coarse.num_processes=4", "resources.coarse.nodes=2")))


@pytest.fixture
def manifest(plan):
    return completed(plan)


def completed(plan, key="artifacts/coarse/abc", **job):
    config = plan.configs["coarse"]
    work = {"stage": "coarse", "config": config.model_dump(mode="json"), "inputs": {}, **job}
    return complete(manifest_of("coarse", "fpnas-search:1", plan), key, work, config, POD)


def jobs(stop=lambda: False, patience=5.0):
    return TrainJobs("fpnas", stop, poll_seconds=0.01, patience_seconds=patience)


def ending(stub, manifest, kind="Complete", message=""):
    """Ends the job that takes an old one's place, or the first one, when it has been looked at."""
    name = manifest["metadata"]["name"]
    old = stub.jobs.get(name)

    def watch():
        while stub.jobs.get(name) is old or stub.requests[-1] != ("GET", f"{JOBS}/{name}"):
            time.sleep(0.005)
        stub.end(name, kind, message)

    threading.Thread(target=watch, daemon=True).start()


def made(stub):
    return stub.requests.count(("POST", JOBS))


def test_a_job_says_how_many_processes_what_they_do_and_who_owns_it(plan, manifest):
    trainer = manifest["spec"]["trainer"]
    assert trainer["numProcPerNode"] == 2
    work = json.loads({v["name"]: v.get("value") for v in trainer["env"]}[JOB])
    assert Config.model_validate(work["config"]) == plan.configs["coarse"]
    (owner,) = manifest["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Pod", "launcher", "1-2-3")
    # JobSet puts the name before -node-0-0, and a host's name has at most 63 letters.
    assert len(manifest["metadata"]["name"]) < 50
    # A name belongs to a result: what is under way is found, and other work does not meet it.
    assert completed(plan)["metadata"]["name"] == manifest["metadata"]["name"]
    assert (
        completed(plan, "artifacts/coarse/abd")["metadata"]["name"]
        != (manifest["metadata"]["name"])
    )


def test_processes_that_cannot_be_shared_out_are_bad_input(plan):
    config = plan.configs["coarse"].model_copy(update={"num_processes": 3})
    with pytest.raises(InputError, match="multiple of 2"):
        complete(manifest_of("coarse", "x", plan), "k", {"stage": "coarse"}, config, POD)


def test_it_waits_until_the_job_is_complete(stub, manifest):
    ending(stub, manifest)
    jobs().run(manifest)
    assert made(stub) == 1


def test_a_job_that_goes_on_is_found_and_not_made_twice(stub, manifest):
    name = manifest["metadata"]["name"]
    stub.jobs[name] = json.loads(json.dumps(manifest))
    stub.jobs[name]["metadata"]["ownerReferences"][0]["uid"] = "of the pod before"
    timer = threading.Timer(0.3, stub.end, (name, "Complete"))
    timer.start()
    jobs().run(manifest)
    assert made(stub) == 1  # which was refused
    assert not [r for r in stub.requests if r[0] == "DELETE"]


@pytest.mark.parametrize("kind", ["Complete", "Failed"])
def test_a_job_that_has_ended_makes_room_for_a_new_one(stub, manifest, kind):
    name = manifest["metadata"]["name"]
    stub.jobs[name] = json.loads(json.dumps(manifest))
    stub.end(name, kind)
    old = stub.jobs[name]
    ending(stub, manifest)
    jobs().run(manifest)
    assert stub.jobs[name] is not old


def test_a_job_with_other_contents_makes_room(stub, plan, manifest):
    name = manifest["metadata"]["name"]
    stub.jobs[name] = completed(plan, inputs={"dataset": "s3://other"})
    assert stub.jobs[name]["metadata"]["name"] == name
    old = stub.jobs[name]
    ending(stub, manifest)
    jobs().run(manifest)
    assert stub.jobs[name] is not old


@pytest.mark.parametrize(("code", "status"), [(2, 2), (75, 75), (137, 75)])
def test_a_failed_job_is_tried_again_unless_its_input_was_bad(stub, manifest, code, status):
    stub.pods = [{"status": {"containerStatuses": [container(c)]}} for c in (0, code)]
    ending(stub, manifest, "Failed", "a node went away")
    with pytest.raises(TrainJobError, match=r"a node went away.*kubectl logs") as raised:
        jobs().run(manifest)
    assert raised.value.exit_status == status
    assert stub.selector == [f"jobset.sigs.k8s.io/jobset-name={manifest['metadata']['name']}"]


def test_a_job_that_somebody_deletes_is_tried_again(stub, manifest):
    def watch():
        while not stub.jobs:
            time.sleep(0.005)
        stub.jobs.clear()

    threading.Thread(target=watch, daemon=True).start()
    with pytest.raises(TrainJobError, match="was deleted") as raised:
        jobs().run(manifest)
    assert raised.value.exit_status == 75


def test_a_stop_deletes_the_job_so_that_its_processes_stop_too(stub, manifest):
    with pytest.raises(StoppedError):
        jobs(stop=lambda: bool(stub.jobs)).run(manifest)
    assert stub.jobs == {}


def test_a_lost_answer_and_errors_of_the_server_make_no_second_job(stub, manifest):
    stub.faults = [503, "lost", 500, 429]
    ending(stub, manifest)
    jobs().run(manifest)
    assert len(stub.jobs) == 1


def test_an_api_that_stays_away_is_an_error(stub, manifest):
    stub.faults = [503] * 10_000
    with pytest.raises(ServiceDownError, match="does not answer"):
        jobs(patience=0.1).run(manifest)


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "role fpnas-train-jobs"), (404, "install Kubeflow Trainer"), (422, "injected 422")],
)
def test_what_the_api_refuses_is_bad_input(stub, manifest, status, words):
    stub.faults = [status]
    with pytest.raises(InputError, match=words):
        jobs().run(manifest)


def test_the_stage_command_runs_on_two_nodes_and_hands_on_what_one_process_finds(
    bench, dataset, plan, tmp_path
):
    """Trainer's part is played by the stub: it starts two agents, which meet over c10d."""
    alone = bench.run("coarse", search_config(), dataset=dataset)
    stub = TrainerStub(tmp_path, bench.environ)
    manifest = json.dumps(manifest_of("coarse", "fpnas-search:1", plan))
    environ = {**stub.pod_environment, train_job.MANIFEST: manifest}
    config = search_config(num_processes=2)
    try:
        shared = bench.run("coarse", config, environ=environ, dataset=dataset)
        assert made(stub) == 1
        again = bench.run("coarse", config, environ=environ, dataset=dataset)
        assert made(stub) == 1  # the result is found, without a job
    finally:
        stub.close()
    assert shared == again != alone
    from fpnas.storage import connect

    store = connect(bench.environ)
    one, two = (store.open(uri) for uri in (alone, shared))
    assert (
        one.read_json("search.json")["num_samples"] == two.read_json("search.json")["num_samples"]
    )
    logits = [a.read_tensors("distribution.safetensors")["logits"] for a in (one, two)]
    assert logits[0].abs().max() > 0.05
    assert (logits[0] - logits[1]).abs().max() < 0.02  # sums of single precision in another order


def test_bad_input_in_a_job_ends_the_stage_with_status_2(bench, dataset, plan, tmp_path):
    stub = TrainerStub(tmp_path, bench.environ)
    manifest = json.dumps(manifest_of("coarse", "fpnas-search:1", plan))
    environ = {**stub.pod_environment, train_job.MANIFEST: manifest}
    config = search_config(num_processes=2)
    config["space"]["target_macs"] = 10  # which only the pictures' classes show to be too little
    process = bench.start("coarse", config, environ=environ, dataset=dataset)
    _, errors = process.communicate(timeout=600)
    stub.close()
    assert process.returncode == 2, errors
    assert any("is outside what nano can reach" in output for output in stub.outputs)
