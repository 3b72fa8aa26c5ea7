"""MLflow's server as the manifests run it, outside of a cluster: on PostgreSQL and S3."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from components.images import TRACKING
from containers.build import tagged
from containers.tool import Tool, find_tool
from fpnas.errors import InputError

from .conftest import ROOT

FOLDER = ROOT / "k8s" / "base" / "mlflow"
NAMESPACE = "fpnas"
_START_SECONDS = 120


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def postgres_programs():
    """The folder of PostgreSQL's programs, or None."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    folders += [Path(found).resolve().parent] if found else []
    return next((f for f in folders if (f / "initdb").exists()), None)


def _account():
    """The user that PostgreSQL runs as: it refuses to run as root."""
    return (
        {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    )


@contextlib.contextmanager
def postgres():
    """A server with an empty database, and libpq's variables that lead to it."""
    programs, port = postgres_programs(), free_port()
    with tempfile.TemporaryDirectory(prefix="pg") as name:
        folder, account = Path(name), _account()
        if account:
            shutil.chown(folder, account["user"], account["group"])
        password = folder / "password"
        password.write_text("a secret of this test\n")
        variables = {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(port),
            "PGDATABASE": "mlflow",
            "PGUSER": "mlflow",
            "PGPASSWORD": password.read_text().strip(),
        }
        common = {"cwd": folder, "check": True, "stdout": subprocess.DEVNULL, **account}
        words = ["--username=mlflow", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"]
        subprocess.run([programs / "initdb", "-D", folder / "data", *words], **common)
        options = f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off"
        control = [programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log"]
        subprocess.run([*control, "-o", options, "start"], **common)
        try:
            environ = {**os.environ, **variables, "PGDATABASE": "postgres"}
            subprocess.run([programs / "createdb", "mlflow"], **common, env=environ)
            yield variables
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], **common)


def image_tool():
    """The container engine that has the tracking image, or None."""
    try:
        tool = find_tool()
    except InputError:
        return None
    return tool if tool.has(tagged(TRACKING)) else None


def _container(name, values, port):
    """Command and variables of a container of the deployment.

    Args:
        name: Of the container.
        values: What secrets and config maps hold, by key.
        port: To be used in the place of the service's.
    """
    pod = yaml.safe_load((FOLDER / "deployment.yaml").read_text())["spec"]["template"]["spec"]
    found = next(c for c in (*pod["initContainers"], *pod["containers"]) if c["name"] == name)
    environ = {}
    for entry in found["env"]:
        source = entry.get("valueFrom", {})
        reference = source.get("secretKeyRef") or source.get("configMapKeyRef") or {}
        key = reference.get("key", "NAMESPACE")
        if reference.get("optional") and key not in values:
            continue
        environ[entry["name"]] = entry["value"] if "value" in entry else values[key]
    words = [*found["command"], *found.get("args", ())]
    words = [re.sub(r"\$\((\w+)\)", lambda m: environ[m[1]], word) for word in words]
    return [
        re.sub(r"(?<=[:=])5000\b", str(port), w).replace("0.0.0.0", "127.0.0.1") for w in words
    ], environ


def command(tool: Tool | None, name, values, port):
    """The command that runs a container of the deployment, and its environment.

    Args:
        tool: Runs the image as the manifest confines it; None runs this environment's packages.
        name: Of the container.
        values: As in :func:`_container`.
        port: Likewise.
    """
    words, environ = _container(name, values, port)
    if tool is None:
        scripts = Path(sysconfig.get_path("scripts"))
        words = [w.replace("/scripts/", f"{FOLDER}/") for w in words]
        words[0] = sys.executable if words[0] == "python" else str(scripts / words[0])
        path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
        return words, {"PATH": path, "TMPDIR": tempfile.gettempdir(), **environ}
    run = [tool.name, "run", "--rm", "--name", f"fpnas-test-{name}-{port}", "--network", "host"]
    run += ["--user", "10001:10001", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "all"]
    run += ["--security-opt", "no-new-privileges", "--volume", f"{FOLDER}:/scripts:ro"]
    for key in environ:
        run += ["--env", key]
    return [*run, tagged(TRACKING), *words], {**os.environ, **environ}


@contextlib.contextmanager
def server(tool, values, log):
    """Migrates the database and serves MLflow, and gives its port."""
    port = free_port()
    words, environ = command(tool, "migrate", values, port)
    with log.open("wb") as file:
        subprocess.run(
            words, env=environ, check=True, stdout=file, stderr=file, cwd=log.parent, timeout=180
        )
        words, environ = command(tool, "mlflow", values, port)
        with subprocess.Popen(
            words, env=environ, stdout=file, stderr=file, cwd=log.parent
        ) as process:
            try:
                _wait(process, port, log)
                yield port
            finally:
                process.terminate()


def _wait(process, port, log):
    limit = time.monotonic() + _START_SECONDS
    while status(port, "/health", f"10.0.0.7:{port}") != 200:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < limit, log.read_text()
        time.sleep(0.2)


def status(port, path, host):
    """The HTTP status of a request with that Host header; None when nothing answers."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
