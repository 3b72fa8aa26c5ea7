"""pip's settings of this machine, for the time of a build and nothing of them in an image.

A build asks the same index as pip does on this machine, also where that one needs a password, a
certificate or a folder: settings and certificate go in as secrets, folders are mounted.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

CERTIFICATE = "/run/secrets/pip.cert"
MOUNTS = "/run/pip"
_PLAIN = ("default-timeout", "no-index", "proxy", "retries", "timeout", "trusted-host")
_PLACES = ("extra-index-url", "find-links", "index-url")


@dataclass(frozen=True)
class PipSettings:
    """What a build needs of pip's settings.

    Attributes:
        config: A configuration file for pip inside the build.
        certificate: File with the certificates that pip trusts here, if it was told of one.
        folders: Folders of this machine that hold packages, and where the build has to see them.
    """

    config: str
    certificate: Path | None
    folders: Mapping[Path, str]


def installed_settings() -> PipSettings:
    """Reads the settings of this interpreter's pip, from its files and the environment."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    return settings_of(done.stdout.splitlines())


def settings_of(lines: Iterable[str]) -> PipSettings:
    """Turns the lines of ``pip config list`` into what a build needs.

    What concerns the machine and not the index, such as a constraint or a target folder, is left
    out: an image is made from ``constraints.txt`` alone.
    """
    # The environment overrides the command's section, and that one the global section.
    ranks = {"global": 0, "install": 1, ":env:": 2}
    found = []
    for line in lines:
        key, separator, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if separator and section in ranks:
            found.append((ranks[section], option, str(ast.literal_eval(value))))
    values = {option: value for _, option, value in sorted(found, key=lambda item: item[0])}
    kept = {option: values[option] for option in _PLAIN if option in values}
    folders: dict[Path, str] = {}
    for option in _PLACES:
        if option in values:
            kept[option] = "\n".join(_place(word, folders) for word in values[option].split())
    certificate = values.get("cert")
    if certificate:
        kept["cert"] = CERTIFICATE
    return PipSettings(_document(kept), Path(certificate) if certificate else None, folders)


def _place(word: str, folders: dict[Path, str]) -> str:
    """An address as the build sees it; a folder of this machine is added to ``folders``."""
    is_url = re.match(r"[a-z+]+://", word) is not None
    if is_url and not word.startswith("file:"):
        return word
    path = Path(unquote(urlsplit(word).path)) if is_url else Path(word).expanduser()
    # An index's pages, in a folder "simple" by convention, link to files beside that folder.
    top = path.parent if path.name == "simple" else path
    seen = folders.setdefault(top, f"{MOUNTS}/{len(folders)}")
    inside = seen if top == path else f"{seen}/{path.name}"
    return f"file://{inside}" if is_url else inside


def _document(options: Mapping[str, str]) -> str:
    lines = ["[global]"]
    for option, value in options.items():
        first, *rest = value.split("\n")
        lines += [f"{option} = {first}", *(f"    {line}" for line in rest)]
    return "\n".join(lines) + "\n"
