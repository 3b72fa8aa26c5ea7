"""S3 prefixes, against an S3 that lives in this process."""

import boto3
import pytest
from moto import mock_aws

from fpnas.data.options import PrepareOptions
from fpnas.data.prepare import check, prepare
from fpnas.data.sources import locate
from fpnas.errors import FpnasError, InputError

from .test_sources import PICTURES, contents, write_ilsvrc, write_tar


@pytest.fixture
def client(monkeypatch):
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        client = boto3.client(
            "s3", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )
        client.create_bucket(Bucket="data")
        yield client


def put(client, files, prefix):
    for name, data in files.items():
        client.put_object(Bucket="data", Key=prefix + name, Body=data)


def test_single_objects_are_read_under_the_prefix_only(client, tmp_path):
    put(client, PICTURES, "set/")
    put(client, {"c/1.jpg": b"other"}, "set2/")
    with locate("s3://data/set", client).open(tmp_path) as source:
        assert source.kind == "s3"
        assert contents(source) == PICTURES
    assert not list(tmp_path.iterdir())


def test_an_archive_is_downloaded_once(client, tmp_path):
    path = tmp_path / "x.tar.gz"
    write_tar(path, PICTURES, "w:gz")
    put(client, {"x.tar.gz": path.read_bytes()}, "sets/")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    located = locate("s3://data/sets/x.tar.gz", client)
    assert not located.is_cheap
    with located.open(scratch) as source:
        assert contents(source) == PICTURES


@pytest.mark.parametrize("url", ["s3://data/in", "s3://data/in/ILSVRC2012_img_train.tar"])
def test_the_official_archives_are_recognised(client, tmp_path, url):
    write_ilsvrc(tmp_path / "imagenet")
    files = {path.name: path.read_bytes() for path in (tmp_path / "imagenet").iterdir()}
    put(client, files, "in/")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with locate(url, client).open(scratch) as source:
        assert source.kind == "ilsvrc"
        assert len(source.entries) == 11


def test_a_prefix_is_prepared_like_a_folder(client, tmp_path):
    put(client, PICTURES, "set/")
    options = PrepareOptions("s3://data/set")
    check(options, client)
    summary = prepare(options, tmp_path / "out", client)
    assert summary.counts == {"weights": 2, "alpha": 2, "val": 2}


def test_bad_places_are_explained(client):
    with pytest.raises(InputError, match=r"NoSuchBucket.*Fix: create the bucket"):
        locate("s3://absent/set", client)
    with pytest.raises(InputError, match="holds no objects"):
        locate("s3://data/absent", client)
    with pytest.raises(InputError, match="names no bucket"):
        locate("s3://", client)


def test_an_endpoint_that_is_not_there_is_explained():
    from botocore.config import Config

    nobody = boto3.client(
        "s3",
        endpoint_url="http://127.0.0.1:9",
        region_name="us-east-1",
        aws_access_key_id="k",
        aws_secret_access_key="s",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=1),
    )
    with pytest.raises(InputError, match="S3_ENDPOINT_URL"):
        locate("s3://data/set", nobody)


def test_an_object_that_vanishes_is_a_failure_not_a_bad_picture(client, tmp_path):
    put(client, PICTURES, "set/")
    with locate("s3://data/set", client).open(tmp_path) as source:
        client.delete_object(Bucket="data", Key="set/" + source.entries[0].name)
        with pytest.raises(FpnasError, match="cannot be read"):
            source.read(source.entries[0])
