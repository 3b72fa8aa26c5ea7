"""A build asks the index that pip asks on this machine."""

import configparser
from pathlib import Path

import pytest

from containers.pip_settings import CERTIFICATE, installed_settings, settings_of


def parsed(settings):
    parser = configparser.RawConfigParser()
    parser.read_string(settings.config)
    return {option: value.split() for option, value in parser["global"].items()}


def test_an_index_goes_in_as_it_is():
    found = settings_of(
        ["global.index-url='https://user:pa%40ss@index.example/simple'", "global.timeout='60'"]
    )
    assert parsed(found) == {
        "timeout": ["60"],
        "index-url": ["https://user:pa%40ss@index.example/simple"],
    }
    assert (found.certificate, found.folders) == (None, {})


def test_the_environment_overrides_the_command_and_that_one_the_rest():
    lines = [":env:.index-url='https://c'", "install.index-url='https://b'"]
    lines += ["global.index-url='https://a'", "install.timeout='2'", "global.timeout='1'"]
    assert parsed(settings_of(lines)) == {"index-url": ["https://c"], "timeout": ["2"]}


def test_folders_are_mounted_and_named_as_the_build_sees_them(tmp_path):
    spaced = f"file://{tmp_path}/with%20space"
    found = settings_of(
        [
            f"global.extra-index-url='file:///mirror/simple https://index.example/simple {spaced}'",
            "global.find-links='/wheels'",
        ]
    )
    assert found.folders == {
        Path("/mirror"): "/run/pip/0",
        tmp_path / "with space": "/run/pip/1",
        Path("/wheels"): "/run/pip/2",
    }
    assert parsed(found) == {
        "extra-index-url": [
            "file:///run/pip/0/simple",
            "https://index.example/simple",
            "file:///run/pip/1",
        ],
        "find-links": ["/run/pip/2"],
    }


def test_a_folder_that_is_named_twice_is_mounted_once():
    found = settings_of(["global.find-links='/wheels\\n/wheels'"])
    assert found.folders == {Path("/wheels"): "/run/pip/0"}


def test_certificates_come_as_a_secret():
    found = settings_of([":env:.cert='/etc/ssl/own.crt'"])
    assert found.certificate == Path("/etc/ssl/own.crt")
    assert parsed(found) == {"cert": [CERTIFICATE]}


@pytest.mark.parametrize(
    "line",
    [
        "global.constraint='/etc/constraints.txt'",
        "global.target='/somewhere'",
        "install.user='true'",
        "download.index-url='https://other'",
        "not a setting",
    ],
)
def test_what_concerns_the_machine_alone_is_left_out(line):
    assert parsed(settings_of([line])) == {}


def test_the_settings_of_this_machine_can_be_read(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    assert parsed(installed_settings())["index-url"] == ["https://index.example/simple"]
