"""A store over the real S3 protocol, in a bucket of its own for every test."""

import uuid

import pytest
from moto.server import ThreadedMotoServer

from fpnas.storage import connect


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def environ(endpoint, tmp_path):
    return {
        "S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "very-secret-value",
        "FPNAS_STORAGE": f"s3://b{uuid.uuid4().hex}/some/prefix",
        "FPNAS_HOME": str(tmp_path / "home"),
    }


@pytest.fixture
def store(environ):
    store = connect(environ)
    store.create_bucket()
    return store
