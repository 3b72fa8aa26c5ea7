"""A stand-in for the container engine."""

import json
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DIGEST = f"sha256:{'ab' * 32}"


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Puts a stand-in for podman and docker first on PATH, which notes what it is asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    log = tmp_path / "asked"
    script = f"""#!{sys.executable}
import json, os, sys
words = sys.argv[1:]
with open({str(log)!r}, "a") as file:
    file.write(json.dumps(words) + "\\n")
if words[0] == os.environ.get("FAILING"):
    sys.exit("cannot " + words[0])
if words[:2] == ["image", "inspect"]:
    if words[2] in os.environ.get("ABSENT", "").split():
        sys.exit("no such image")
    layers = ["sha256:1", "sha256:2"]
    print(json.dumps([{{"Size": 5_000_000, "RootFS": {{"Layers": layers}},
        "RepoDigests": ["other@{DIGEST}", words[2].rpartition(":")[0] + "@{DIGEST}"]}}]))
if words[0] == "build":
    secrets = [w.split("src=")[1] for w in words if w.startswith("id=pip.conf")]
    print("STEP 1/1: FROM x", *(open(path).read() for path in secrets))
if words[0] == "push" and "--digestfile" in words:
    open(words[words.index("--digestfile") + 1], "w").write("{DIGEST}")
"""
    for name in ("podman", "docker"):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]
