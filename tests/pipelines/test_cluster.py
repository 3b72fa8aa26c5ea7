"""Pods and events of a cluster, read from a stand-in for Kubernetes' API."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from fpnas.errors import FpnasError, InputError, ServiceDownError
from pipelines import commands
from pipelines.pods import Cluster

NAME = "tiny-t0-abc"
RUN = {
    "run_id": "5f0c",
    "display_name": NAME,
    "state": "RUNNING",
    "run_details": {"task_details": [{"display_name": "coarse", "state": "PENDING"}]},
}
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def pod(name, stage, made, container="main", **status):
    kfp = {"pipeline/runid": RUN["run_id"]}
    of_run = {"fpnas.io/run": f"fpnas-{NAME}"} if container == "node" else kfp
    labels = {**of_run, "fpnas.io/stage": stage}
    containers = [{"name": "wait"}, {"name": container}]
    return {
        "metadata": {"name": name, "labels": labels, "creationTimestamp": made},
        "spec": {"nodeSelector": {"fpnas.io/pool": "gpu"}, "containers": containers},
        "status": status,
    }


PODS = [
    pod("prepare-1", "prepare", "2026-01-01T00:00:00Z", phase="Succeeded"),
    pod("coarse-1", "coarse", "2026-01-01T01:00:00Z", phase="Failed", reason="Evicted"),
    pod("coarse-2", "coarse", "2026-01-01T02:00:00Z", phase="Pending"),
    pod("train-1", "train", "2026-01-01T03:00:00Z", phase="Running"),
    pod("job-node-0-1", "train", "2026-01-01T04:00:00Z", "node", phase="Pending"),
    pod("job-node-0-0", "train", "2026-01-01T04:00:00Z", "node", phase="Running"),
]
EVENTS = [
    {
        "metadata": {"name": f"{name}.1"},
        "involvedObject": {"name": name},
        "reason": "FailedMount",
        "message": f'MountVolume failed: secret "{secret}" not found',
    }
    for name, secret in (("coarse-2", "fpnas-s3"), ("somebody-else", "other"))
]


def has(thing, label):
    key, _, value = label.partition("=")
    return thing["metadata"]["labels"].get(key) == value


@pytest.fixture
def refusals():
    """Statuses by the end of a path; the API answers them in place of what was asked for."""
    return {}


@pytest.fixture
def kfp(stub):
    """A KFP that has the run."""
    stub.things["experiments"].append({"display_name": "fpnas", "experiment_id": "e"})
    stub.things["runs"].append(RUN)
    return stub


@pytest.fixture
def asked(tmp_path, monkeypatch, refusals):
    """The requests that an API server got, to which a kubeconfig leads."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            parts = urlsplit(self.path)
            requests.append((parts.path, parse_qs(parts.query), self.headers["Authorization"]))
            what = parts.path.rpartition("/")[2]
            status, kind = refusals.get(what, 200), "application/json"
            if status != 200:
                body = json.dumps({"kind": "Status", "message": f"{what} is refused"}).encode()
            elif what == "log":
                body, kind = b"step 1\nstep 2\n", "text/plain"
            else:
                items = {"events": EVENTS, "pods": PODS, "resourcequotas": []}[what]
                wanted = parse_qs(parts.query).get("labelSelector", [""])[0].split(",")[0]
                items = [i for i in items if what != "pods" or has(i, wanted)]
                body = json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
        "clusters": [
            {"name": "here", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "users": [{"name": "me", "user": {"token": "t0"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    # The library reads the variable when it is imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    yield requests
    server.shutdown()
    server.server_close()


def test_every_pod_of_the_run_with_its_cause(asked):
    found = {entry["pod"]: entry for entry in Cluster("fpnas").findings(RUN)}
    assert {name: entry["stage"] for name, entry in found.items()} == {
        "prepare-1": "prepare",
        "coarse-1": "coarse",
        "coarse-2": "coarse",
        "train-1": "train",
        "job-node-0-0": "train",
        "job-node-0-1": "train",
    }
    assert found["prepare-1"]["cause"] == ""
    assert "evicted" in found["coarse-1"]["cause"]
    assert "the secret fpnas-s3 is missing" in found["coarse-2"]["cause"]
    assert {token for _, _, token in asked} == {"Bearer t0"}
    pods = [query for path, query, _ in asked if path == "/api/v1/namespaces/fpnas/pods"]
    assert [query["labelSelector"] for query in pods] == [
        ["pipeline/runid=5f0c,fpnas.io/stage"],
        [f"fpnas.io/run=fpnas-{NAME},fpnas.io/stage"],
    ]


def test_the_log_of_several_nodes_is_that_of_the_first(asked):
    assert Cluster("fpnas").log(RUN, "train", 20) == "step 1\nstep 2\n"
    path, query, _ = asked[-1]
    assert path == "/api/v1/namespaces/fpnas/pods/job-node-0-0/log"
    assert query["container"] == ["node"]


def test_the_log_of_the_newest_pod_of_a_stage(asked):
    assert Cluster("fpnas").log(RUN, "coarse", 20) == "step 1\nstep 2\n"
    path, query, _ = asked[-1]
    assert path == "/api/v1/namespaces/fpnas/pods/coarse-2/log"
    assert query["tailLines"] == ["20"]
    assert query["container"] == ["main"]


def test_a_stage_without_a_pod(asked):
    with pytest.raises(InputError, match="STAGE=distill has no pod"):
        Cluster("fpnas").log(RUN, "distill", 20)


def test_no_cluster(tmp_path, monkeypatch, capsys):
    missing = str(tmp_path / "none")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", missing)
    with pytest.raises(InputError, match="KUBECONFIG=\\(none\\) leads to no cluster"):
        Cluster("fpnas")
    assert capsys.readouterr().out == ""


def test_what_the_cluster_refuses_is_said_and_what_kfp_knows_is_shown(asked, refusals, kfp, capsys):
    refusals["pods"] = 403
    commands.status(NAME, endpoint=kfp.url, as_json=True)
    output, errors = capsys.readouterr()
    document = json.loads(output)
    assert document["state"] == "RUNNING"
    assert document["tasks"][0]["stage"] == "coarse"
    assert document["pods"] == []
    words = " ".join(errors.split())
    assert "without pods and events: the cluster's API answered 403 to list pods" in words
    assert "fpnas-submitter" in words


def test_a_kubeconfig_of_a_cluster_that_is_gone(asked, kfp, capsys, monkeypatch):
    monkeypatch.setattr("kubernetes.client.Configuration.get_default_copy", gone)
    commands.status(NAME, endpoint=kfp.url, as_json=True)
    output, errors = capsys.readouterr()
    assert json.loads(output)["state"] == "RUNNING"
    assert "the cluster's API did not answer to list pods" in " ".join(errors.split())
    with pytest.raises(ServiceDownError, match="did not answer to list pods"):
        commands.logs(NAME, "coarse", endpoint=kfp.url)


def gone():
    from kubernetes.client import Configuration

    configuration = Configuration()
    configuration.host, configuration.retries = "http://127.0.0.1:9", 0
    return configuration


def test_a_log_that_is_not_there_yet(asked, refusals):
    refusals["log"] = 400
    with pytest.raises(FpnasError, match=r"answered 400 to read the log of coarse-2.*has started"):
        Cluster("fpnas").log(RUN, "coarse", 20)
