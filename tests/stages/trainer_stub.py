"""A cluster's API with a Kubeflow Trainer behind it, whose nodes are processes of this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import yaml

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/fpnas/trainjobs"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def node_environment(job, port):
    """What Trainer puts into the environment of a job's nodes, and the job's own variables."""
    trainer = job["spec"]["trainer"]
    own = {v["name"]: v["value"] for v in trainer["env"] if "value" in v}
    return {
        **own,
        "PET_NNODES": str(trainer["numNodes"]),
        "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
        "PET_MASTER_ADDR": "localhost",
        "PET_MASTER_PORT": str(port),
    }


def start_nodes(job, environ):
    """Starts the nodes of a job, each a process as its container would have it."""
    trainer = job["spec"]["trainer"]
    program, *words = trainer["command"]
    assert program == "python"
    own = node_environment(job, free_port())
    return [
        subprocess.Popen(
            [sys.executable, *words],
            env={**environ, **own, "PET_NODE_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(trainer["numNodes"])
    ]


class TrainerStub:
    """Serves TrainJobs over HTTP.

    Args:
        folder: For the kubeconfig.
        environ: Of the nodes; None starts none, and a test says what becomes of a job.
    """

    def __init__(self, folder, environ=None):
        self.jobs, self.requests, self.faults, self.pods = {}, [], [], []
        self.environ = environ
        self.outputs = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.kubeconfig = folder / "kubeconfig"
        named = {"name": "stub"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stub",
            "clusters": [
                {**named, "cluster": {"server": f"http://127.0.0.1:{self.server.server_port}"}}
            ],
            "users": [{**named, "user": {}}],
            "contexts": [{**named, "context": {"cluster": "stub", "user": "stub"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))

    @property
    def pod_environment(self):
        """Of the pod that waits for a job."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "FPNAS_POD_NAMESPACE": "fpnas",
            "FPNAS_POD_NAME": "launcher",
            "FPNAS_POD_UID": "1-2-3",
        }

    def end(self, name, kind, message=""):
        """Ends a job as Complete or Failed."""
        condition = {"type": kind, "status": "True", "reason": "Ended", "message": message}
        self.jobs[name]["status"] = {"conditions": [condition]}

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def _run(self, name):
        nodes = start_nodes(self.jobs[name], self.environ)
        self.jobs[name]["status"] = {"jobsStatus": [{"name": "node", "ready": 1}]}
        self.outputs += [node.communicate()[0] for node in nodes]
        statuses = [node.returncode for node in nodes]
        self.pods = [{"status": {"containerStatuses": [container(status)]}} for status in statuses]
        self.end(name, "Failed" if any(statuses) else "Complete")

    def _handler(stub):
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_args):
                pass

            def answer(self, status, body):
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def handled(self):
                path = urlsplit(self.path)
                stub.requests.append((self.command, path.path))
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                if stub.faults:
                    fault = stub.faults.pop(0)
                    if fault == "lost":
                        stub.create(body)
                        self.close_connection = True
                        return None
                    return fault, {"message": f"injected {fault}"}
                if path.path == "/api/v1/namespaces/fpnas/pods":
                    stub.selector = parse_qs(path.query)["labelSelector"]
                    return 200, {"kind": "PodList", "items": stub.pods}
                if not path.path.startswith(JOBS):
                    return 404, {"message": "the server could not find the requested resource"}
                name = path.path.removeprefix(JOBS).strip("/")
                if self.command == "POST":
                    return stub.create(body)
                if name not in stub.jobs:
                    return 404, {"message": f"trainjobs {name} not found"}
                if self.command == "DELETE":
                    return 200, stub.jobs.pop(name)
                return 200, stub.jobs[name]

            def do_GET(self):
                found = self.handled()
                if found:
                    self.answer(*found)

            do_POST = do_DELETE = do_GET

        return Handler

    def create(self, body):
        name = body["metadata"]["name"]
        if name in self.jobs:
            return 409, {"message": f"trainjobs {name} already exists"}
        self.jobs[name] = body
        if self.environ is not None:
            threading.Thread(target=self._run, args=(name,), daemon=True).start()
        return 201, body


def container(status):
    """The state of a container that has ended."""
    return {
        "name": "node",
        "image": "fpnas-search",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": {"exitCode": status}},
    }
