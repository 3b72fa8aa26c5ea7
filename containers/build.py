"""One build after another, with progress, and what came of it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.images import FAMILIES, TRACKING, code_digest, image
from containers.pip_settings import PipSettings
from containers.tool import Tool
from fpnas import __version__
from fpnas.errors import FpnasError, InputError

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
TARGETS = (*FAMILIES, TRACKING)
BASE = "docker.io/library/python:3.11-slim-bookworm"
_SOURCES = (
    ".dockerignore", "LICENSE", "README.md", "components", "constraints.txt", "docker", "fpnas",
    "pipelines", "pyproject.toml",
)  # fmt: skip


@dataclass(frozen=True)
class Built:
    """An image that was built.

    Attributes:
        target: Of the Dockerfile.
        name: Of the image.
        num_bytes: Uncompressed, with its base.
        layers: Digests of its layers, the base's first.
        seconds: What the build took; layers of images before it were found.
    """

    target: str
    name: str
    num_bytes: int
    layers: tuple[str, ...]
    seconds: float


def tagged(target: str, environ: Mapping[str, str] = os.environ) -> str:
    """What an image that is built here is called, whatever ``FPNAS_IMAGES`` pins."""
    return image(target, {key: value for key, value in environ.items() if key != "FPNAS_IMAGES"})


def require_base(tool: Tool, base: str) -> None:
    """Makes sure that the base image is on this machine.

    Raises:
        InputError: It is not, and cannot be pulled.
    """
    if tool.has(base):
        return
    done = tool.run("pull", base, check=False)
    if done.returncode:
        last = done.stderr.strip().splitlines() or ["no answer"]
        raise InputError(
            "BASE", base, f"is not on this machine and cannot be pulled ({last[-1].strip()})",
            fix="name another image, or make a stand-in from Debian's packages: "
            f"docker/stand-in-base.sh {base}",
        )  # fmt: skip


def revision(root: Path = ROOT) -> str:
    """The commit of the tree, with ``-dirty`` when what goes into images differs from it."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(  # noqa: S603
                ["git", "-C", str(root), *words],  # noqa: S607
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if not commit:
        return "unknown"
    return f"{commit}-dirty" if git("status", "--porcelain", "--", *_SOURCES) else commit


@contextmanager
def build_command(
    tool: Tool, target: str, name: str, base: str, pip: PipSettings, *, cache_key: str = ""
) -> Iterator[list[str]]:
    """The command that builds a target; the files that it names exist until the context ends.

    Args:
        tool: Podman or Docker.
        target: One of :data:`TARGETS`.
        name: Of the image.
        base: The base image.
        pip: Where packages come from.
        cache_key: Layers of builds with another key are not used.

    Raises:
        InputError: pip's packages are in folders, which Docker's build cannot mount.
    """
    if pip.folders and tool.name == "docker":
        raise InputError(
            "TOOL", tool.name,
            f"cannot mount {', '.join(map(str, pip.folders))}, where pip's settings say packages "
            "are",
            fix="build with TOOL=podman, or with settings that name indexes alone "
            "(PIP_CONFIG_FILE)",
        )  # fmt: skip
    labels = {"VERSION": __version__, "REVISION": revision()}
    if target in FAMILIES:
        labels["CODE"] = code_digest(target)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "pip.conf"
        config.touch(mode=0o600)
        config.write_text(pip.config, encoding="utf-8")
        words = [tool.name, "build", "--network", "host", "--file", str(DOCKERFILE)]
        words += ["--target", target, "--tag", name, "--build-arg", f"BASE={base}"]
        words += ["--secret", f"id=pip.conf,src={config}"]
        if pip.certificate:
            words += ["--secret", f"id=pip.cert,src={pip.certificate}"]
        for source, seen in pip.folders.items():
            words += ["--volume", f"{source}:{seen}:ro"]
        for label, value in labels.items():
            words += ["--build-arg", f"{label}={value}"]
        words += ["--progress", "plain"] if tool.name == "docker" else ["--layers"]
        words += ["--build-arg", f"CACHE_KEY={cache_key}"] if cache_key else []
        yield [*words, str(ROOT)]


def build(
    tool: Tool,
    targets: Sequence[str],
    base: str,
    pip: PipSettings,
    log_folder: Path,
    show: Callable[[str, str], None],
    *,
    cache_key: str = "",
) -> list[Built]:
    """Builds images one after another.

    Args:
        tool: Podman or Docker.
        targets: Of :data:`TARGETS`.
        base: The base image.
        pip: Where packages come from.
        log_folder: Gets each build's whole output, as ``TARGET.log``.
        show: Called with the target and each line of output.
        cache_key: Layers of builds with another key are not used.

    Raises:
        InputError: The base cannot be had.
        FpnasError: A build failed; the images before it are there.
    """
    require_base(tool, base)
    log_folder.mkdir(parents=True, exist_ok=True)
    built = []
    for target in targets:
        name = tagged(target)
        started = time.monotonic()
        with build_command(tool, target, name, base, pip, cache_key=cache_key) as words:
            _run(words, target, log_folder / f"{target}.log", show)
        seconds = time.monotonic() - started
        found = tool.inspect(name)
        layers = tuple(found["RootFS"]["Layers"])
        built.append(Built(target, name, int(found["Size"]), layers, seconds))
    return built


def _run(words: Sequence[str], target: str, log: Path, show: Callable[[str, str], None]) -> None:
    with (
        log.open("w", encoding="utf-8") as file,
        subprocess.Popen(  # noqa: S603
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            show(target, line.rstrip())
    if process.returncode:
        tail = log.read_text(encoding="utf-8").splitlines()[-15:]
        raise FpnasError("\n".join([f"the build of {target} failed; {log} ends with", *tail]))
