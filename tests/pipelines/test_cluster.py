"""Pods and events of a cluster, read from a stand-in for Kubernetes' API."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from fpnas.errors import InputError
from pipelines.pods import Cluster

RUN = "5f0c"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def pod(name, stage, made, **status):
    labels = {"pipeline/runid": RUN, "fpnas.io/stage": stage}
    return {
        "metadata": {"name": name, "labels": labels, "creationTimestamp": made},
        "spec": {"nodeSelector": {"fpnas.io/pool": "gpu"}, "containers": [{"name": "main"}]},
        "status": status,
    }


PODS = [
    pod("prepare-1", "prepare", "2026-01-01T00:00:00Z", phase="Succeeded"),
    pod("coarse-1", "coarse", "2026-01-01T01:00:00Z", phase="Failed", reason="Evicted"),
    pod("coarse-2", "coarse", "2026-01-01T02:00:00Z", phase="Pending"),
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


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The requests that an API server got, to which a kubeconfig leads."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            parts = urlsplit(self.path)
            requests.append((parts.path, parse_qs(parts.query), self.headers["Authorization"]))
            kind = "application/json"
            if parts.path.endswith("/log"):
                body, kind = b"step 1\nstep 2\n", "text/plain"
            else:
                items = EVENTS if parts.path.endswith("/events") else PODS
                body = json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()
            self.send_response(200)
            self.send_header(
                "Content-Type", f"{'text' if kind == 'plain' else 'application'}/{kind}"
            )
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
    }
    assert found["prepare-1"]["cause"] == ""
    assert "evicted" in found["coarse-1"]["cause"]
    assert "the secret fpnas-s3 is missing" in found["coarse-2"]["cause"]
    path, query, token = next(r for r in asked if r[0].endswith("/pods"))
    assert path == "/api/v1/namespaces/fpnas/pods"
    assert query["labelSelector"] == [f"pipeline/runid={RUN},fpnas.io/stage"]
    assert token == "Bearer t0"


def test_the_log_of_the_newest_pod_of_a_stage(asked):
    assert Cluster("fpnas").log(RUN, "coarse", 20) == "step 1\nstep 2\n"
    path, query, _ = asked[-1]
    assert path == "/api/v1/namespaces/fpnas/pods/coarse-2/log"
    assert query["tailLines"] == ["20"]
    assert query["container"] == ["main"]


def test_a_stage_without_a_pod(asked):
    with pytest.raises(InputError, match="STAGE=train has no pod"):
        Cluster("fpnas").log(RUN, "train", 20)


def test_no_cluster(tmp_path, monkeypatch, capsys):
    missing = str(tmp_path / "none")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", missing)
    with pytest.raises(InputError, match="KUBECONFIG=\\(none\\) leads to no cluster"):
        Cluster("fpnas")
    assert capsys.readouterr().out == ""
