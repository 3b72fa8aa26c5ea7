"""MLflow on PostgreSQL and S3 with the manifests' arguments, as a process and in its image."""

import os
import subprocess
import sys

import boto3
import pytest

from fpnas.services import find_rclone, local_s3

from .mlflow_deployment import NAMESPACE, image_tool, postgres, postgres_programs, server, status

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres_programs() is None, reason="PostgreSQL is not installed"),
    pytest.mark.skipif(find_rclone() is None, reason="rclone is not installed"),
]
SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"


@pytest.fixture(scope="module")
def backend(tmp_path_factory):
    """PostgreSQL and S3, as the values of the manifests' secrets and config maps."""
    home = tmp_path_factory.mktemp("home")
    with postgres() as database, local_s3(home, environ={"FPNAS_STORAGE": "s3://models"}) as s3:
        yield {
            **database,
            **s3.environment,
            "FPNAS_STORAGE": "s3://models/team",
            "AWS_DEFAULT_REGION": "us-east-1",
            "NAMESPACE": NAMESPACE,
        }


@pytest.fixture(scope="module", params=["process", "image"])
def deployed(request, backend, tmp_path_factory):
    """The port of a running server, and what is behind it."""
    tool = image_tool() if request.param == "image" else None
    if request.param == "image" and tool is None:
        pytest.skip("fpnas-tracking is not built (make images)")
    log = tmp_path_factory.mktemp("mlflow") / "log"
    with server(tool, backend, log) as port:
        yield port, backend
    assert backend["PGPASSWORD"] not in log.read_text()
    assert backend["AWS_SECRET_ACCESS_KEY"] not in log.read_text()


@pytest.mark.parametrize(
    "host", ["mlflow", f"mlflow.{NAMESPACE}", f"mlflow.{NAMESPACE}.svc.cluster.local", "localhost"]
)
def test_clients_in_the_cluster_are_answered(deployed, host):
    port, _ = deployed
    assert status(port, SEARCH, f"{host}:{port}") == 200


@pytest.mark.parametrize(
    "host", ["mlflow", "evil.example", "evil.example:{port}", "mlflow.evil.example:{port}"]
)
def test_strangers_and_addresses_without_the_port_are_refused(deployed, host):
    port, _ = deployed
    assert status(port, SEARCH, host.format(port=port)) == 403


def test_a_run_is_in_the_database_and_its_artifact_in_s3(deployed):
    port, backend = deployed
    # A client has the server's address and no key of the storage.
    code = """
import mlflow
mlflow.set_experiment("from a client")
with mlflow.start_run() as run:
    mlflow.log_metric("top1", 0.5)
    mlflow.log_text("hello", "note.txt")
    print(run.info.run_id)
"""
    environ = {
        key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "MLFLOW_"))
    }
    environ["MLFLOW_TRACKING_URI"] = f"http://localhost:{port}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    run_id = done.stdout.split()[0]

    psycopg2 = pytest.importorskip("psycopg2")
    names = {"host": "PGHOST", "port": "PGPORT", "dbname": "PGDATABASE"}
    names |= {"user": "PGUSER", "password": "PGPASSWORD"}
    connection = psycopg2.connect(**{key: backend[name] for key, name in names.items()})
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT value FROM metrics WHERE run_uuid = %s AND key = 'top1'", (run_id,))
        assert cursor.fetchall() == [(0.5,)]
    connection.close()

    s3 = boto3.client(
        "s3",
        endpoint_url=backend["S3_ENDPOINT_URL"],
        aws_access_key_id=backend["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=backend["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    )
    objects = s3.list_objects_v2(Bucket="models", Prefix="team/mlflow/")["Contents"]
    assert any(item["Key"].endswith(f"{run_id}/artifacts/note.txt") for item in objects)
