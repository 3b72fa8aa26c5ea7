"""What the Dockerfile says, read once."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Target:
    """A stage of the Dockerfile: its parent, and its instructions as (word, rest)."""

    parent: str
    steps: tuple[tuple[str, str], ...]

    def all(self, word):
        return [rest for found, rest in self.steps if found == word]


def targets(text):
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", text, flags=re.M))
    found, name = {}, None
    for line in filter(None, joined.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            parent, name = rest.split(" AS ")
            found[name] = Target(parent, ())
        elif name:
            found[name] = Target(found[name].parent, (*found[name].steps, (word, rest)))
    return found


@pytest.fixture(scope="session")
def dockerfile():
    return targets(TEXT)


def lineage(found, name):
    """The stages that a target is made of, the target first."""
    line = [name]
    while found[line[-1]].parent in found:
        line.append(found[line[-1]].parent)
    return line


def requirement_files(found, name):
    """The lists of packages that a target installs."""
    copies = [c for part in lineage(found, name) for c in found[part].all("COPY")]
    return {Path(file).name for c in copies for file in re.findall(r"requirements/\S+\.txt", c)}
