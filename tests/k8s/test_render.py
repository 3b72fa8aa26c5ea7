"""Rendering an overlay with its images by digest."""

import pytest
import yaml

from validation import images
from validation.__main__ import main
from validation.objects import pods

DIGEST = "sha256:" + "0123456789abcdef" * 4
TRACKING = f"fpnas-tracking=registry.example.com:5000/team/tracking@{DIGEST}"
POSTGRES = f"postgres=registry.example.com/postgres@{DIGEST}"
PLUGIN = f"nvidia-device-plugin=registry.example.com/plugin@{DIGEST}"


def render(monkeypatch, output, overlay, *pins):
    arguments = [part for pin in pins for part in ("--image", pin)]
    monkeypatch.setattr(
        "sys.argv", ["validation", "render", overlay, "--output", str(output), *arguments]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code


@pytest.mark.parametrize(
    ("overlay", "pins"), [("gke", (TRACKING, POSTGRES)), ("eks", (TRACKING, POSTGRES, PLUGIN))]
)
def test_all_images_of_a_cloud_overlay_are_by_digest(monkeypatch, tmp_path, overlay, pins):
    output = tmp_path / "build" / "cluster.yaml"
    assert render(monkeypatch, output, overlay, *pins) == 0
    manifests = list(yaml.safe_load_all(output.read_text()))
    assert images.unpinned(manifests) == []
    used = {container["image"] for pod in pods(manifests) for container in pod.containers}
    assert used == {pin.partition("=")[2] for pin in pins}


@pytest.mark.parametrize("name", images.CLOUD_OVERLAYS)
def test_as_it_stands_a_cloud_overlay_names_no_image_by_digest(overlay, name):
    # Digests come from whoever deploys; a placeholder that looks like one could be deployed.
    manifests = overlay(name)
    assert len(images.unpinned(manifests)) == sum(len(pod.containers) for pod in pods(manifests))


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ((), "is missing for fpnas-tracking, postgres"),
        ((TRACKING,), "is missing for postgres"),
        ((TRACKING, "postgres=postgres:17.6"), "is not an image by digest"),
        ((TRACKING, "postgres=postgres@sha256:REPLACE"), "is not an image by digest"),
        ((TRACKING, POSTGRES, PLUGIN), "names no image that is used"),
    ],
)
def test_a_missing_or_movable_image_is_refused(monkeypatch, tmp_path, capsys, pins, message):
    output = tmp_path / "cluster.yaml"
    assert render(monkeypatch, output, "gke", *pins) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_an_unknown_overlay_is_refused(monkeypatch, tmp_path, capsys):
    assert render(monkeypatch, tmp_path / "x.yaml", "aks") == 2
    assert "Legal: eks, gke, kind, onprem" in capsys.readouterr().err
