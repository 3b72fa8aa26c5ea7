"""The commands that build and push images, without a container engine."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from components.images import code_digest
from containers.build import BASE, TARGETS, build, build_command, require_base, revision, tagged
from containers.pip_settings import PipSettings
from containers.push import push
from containers.tool import Tool, find_tool
from fpnas import __version__
from fpnas.errors import FpnasError, InputError

from .conftest import DIGEST

NO_PIP = PipSettings("[global]\n", None, {})


def words_for(tool, target, pip=NO_PIP, **options):
    with build_command(Tool(tool), target, "name:tag", BASE, pip, **options) as words:
        return words


def test_podman_comes_first_and_a_tool_can_be_named(engine):
    assert find_tool().name == "podman"
    assert find_tool("docker").name == "docker"


def test_without_an_engine_the_error_says_what_to_install(tmp_path):
    with pytest.raises(InputError, match="podman is not installed; docker is not installed") as e:
        find_tool(environ={"PATH": str(tmp_path)})
    assert "apt-get install podman" in e.value.fix
    with pytest.raises(InputError, match="not a container engine that is known"):
        find_tool("rocket")


def test_an_engine_that_does_not_answer_is_passed_over(engine, monkeypatch):
    monkeypatch.setenv("FAILING", "info")
    with pytest.raises(InputError, match=r"podman does not work \(cannot info\)"):
        find_tool()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("tool", ["podman", "docker"])
def test_a_build_names_target_base_and_labels(tool, target):
    words = words_for(tool, target)
    assert words[:2] == [tool, "build"]
    assert words[words.index("--target") + 1] == target
    arguments = [words[i + 1] for i, word in enumerate(words) if word == "--build-arg"]
    assert arguments[:3] == [f"BASE={BASE}", f"VERSION={__version__}", f"REVISION={revision()}"]
    code = [] if target == "tracking" else [f"CODE={code_digest(target)}"]
    assert arguments[3:] == code
    assert words_for(tool, target, cache_key="anew")[-3:-1] == ["--build-arg", "CACHE_KEY=anew"]


def test_settings_of_pip_are_secret_and_gone_afterwards(tmp_path):
    certificate = tmp_path / "own.crt"
    pip = PipSettings("[global]\nindex-url = https://user:word@x\n", certificate, {})
    with build_command(Tool("docker"), "prepare", "name:tag", BASE, pip) as words:
        (config,) = [Path(w.partition("src=")[2]) for w in words if w.startswith("id=pip.conf")]
        assert config.read_text() == pip.config
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert f"id=pip.cert,src={certificate}" in words
    assert not config.exists()
    assert not any("user:word" in word for word in words)


def test_folders_of_packages_are_mounted_by_podman_alone():
    pip = PipSettings("[global]\n", None, {Path("/wheels"): "/run/pip/0"})
    words = words_for("podman", "prepare", pip)
    assert words[words.index("--volume") + 1] == "/wheels:/run/pip/0:ro"
    with pytest.raises(InputError, match=r"cannot mount /wheels.*TOOL=podman"):
        words_for("docker", "prepare", pip)


def test_images_are_built_in_order_and_measured(engine, tmp_path):
    shown = []
    built = build(
        Tool("podman"), ["prepare", "train"], BASE, NO_PIP, tmp_path / "logs",
        lambda target, line: shown.append((target, line)), cache_key="anew",
    )  # fmt: skip
    assert [(one.target, one.num_bytes, one.layers) for one in built] == [
        (name, 5_000_000, ("sha256:1", "sha256:2")) for name in ("prepare", "train")
    ]
    assert ("train", "STEP 1/1: FROM x [global]") in shown
    assert "STEP 1/1" in (tmp_path / "logs" / "train.log").read_text()
    builds = [words for words in engine() if words[0] == "build"]
    # The layers of the first serve the second.
    assert ["CACHE_KEY=anew" in words for words in builds] == [True, True]
    assert [words[words.index("--tag") + 1] for words in builds] == [
        tagged("prepare"), tagged("train"),
    ]  # fmt: skip


def test_a_build_that_fails_says_where_its_output_is(engine, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILING", "build")
    with pytest.raises(FpnasError, match=r"the build of prepare failed; .*prepare.log") as caught:
        build(Tool("podman"), ["prepare"], BASE, NO_PIP, tmp_path, lambda *_: None)
    assert "cannot build" in str(caught.value)


def test_a_base_that_cannot_be_had_is_explained(engine, monkeypatch):
    monkeypatch.setenv("ABSENT", BASE)
    require_base(Tool("podman"), BASE)
    assert ["pull", BASE] in engine()
    monkeypatch.setenv("FAILING", "pull")
    with pytest.raises(InputError, match=r"cannot be pulled.*stand-in-base.sh"):
        require_base(Tool("podman"), BASE)


def test_what_is_built_here_has_a_tag_whatever_is_pinned():
    pins = {
        "FPNAS_IMAGES": f"fpnas-train=r.example/x@{DIGEST}",
        "FPNAS_IMAGE_PREFIX": "r.example/y",
    }
    assert tagged("train", pins) == f"r.example/y-train:{__version__}"


@pytest.mark.parametrize("tool", ["podman", "docker"])
def test_a_push_gives_the_digests_of_the_registry(engine, tool):
    pins = push(Tool(tool), ["prepare"], {"FPNAS_IMAGE_PREFIX": "r.example:5000/team/fpnas"})
    assert pins == [f"fpnas-prepare=r.example:5000/team/fpnas-prepare@{DIGEST}"]


@pytest.mark.parametrize("prefix", ["fpnas", "team/fpnas"])
def test_a_push_needs_a_registry(engine, prefix):
    with pytest.raises(InputError, match="has no registry in it"):
        push(Tool("podman"), ["prepare"], {"FPNAS_IMAGE_PREFIX": prefix})


def test_a_push_needs_all_images(engine, monkeypatch):
    environ = {"FPNAS_IMAGE_PREFIX": "r.example/fpnas"}
    monkeypatch.setenv("ABSENT", tagged("train", environ))
    with pytest.raises(InputError, match=r"was not built.*make images"):
        push(Tool("podman"), ["prepare", "train"], environ)
    assert not [words for words in engine() if words[0] == "push"]


def test_the_revision_says_when_the_tree_differs(tmp_path):
    assert revision(tmp_path) == "unknown"
    git = lambda *words: subprocess.run(  # noqa: E731
        ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x", *words],
        check=True,
    )
    git("init", "--quiet")
    (tmp_path / "fpnas").mkdir()
    (tmp_path / "fpnas" / "a.py").write_text("x = 1\n")
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    (tmp_path / "notes.md").write_text("no part of an image")
    clean = revision(tmp_path)
    assert len(clean) == 40
    (tmp_path / "fpnas" / "a.py").write_text("x = 2\n")
    assert revision(tmp_path) == f"{clean}-dirty"


def test_the_command_ends_with_status_2_where_there_is_no_engine(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "containers", "build"],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "TOOL=(not given) leads to no container engine" in done.stderr


def test_a_target_that_is_no_image_is_refused(engine):
    done = subprocess.run(
        [sys.executable, "-m", "containers", "build", "trian"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Legal: prepare, decode, search, train, tracking" in done.stderr
