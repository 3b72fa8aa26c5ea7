"""The better model of a finished run as files that run elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fpnas.errors import InputError
from fpnas.stages.exporting import FOLDER, RECORD, WEIGHTS, export_model
from fpnas.storage import connect, home_directory
from pipelines.files import write_json
from pipelines.results import latest_registered
from pipelines.run import services


def export_run(name: str | None, directory: Path, opset: int | None = None) -> dict[str, Any]:
    """Fetches the files that the run has made of its more accurate model, or makes them.

    Args:
        name: Of the run; the latest one by default.
        directory: Where the files go; see :mod:`fpnas.training.export`.
        opset: Of ONNX; the files are made anew with it.

    Returns:
        What was written, and how each file compares with the network.

    Raises:
        InputError: No such run, a baseline, missing packages, or an opset not written.
        ExportError: A file does not compute what the network computes.
    """
    if opset is not None:
        from fpnas.training.export import check_opset

        check_opset(opset)
    if directory.exists() and not directory.is_dir():
        raise InputError("--output", directory, "is a file", fix="name a folder")
    result = latest_registered(name)
    artifacts = {stage["name"]: stage["artifact"] for stage in result["stages"]}
    best = max(("train", "distill"), key=lambda stage: result[stage]["top1"])
    with services(home_directory()):
        store = connect()
        made = store.open(artifacts["register"])
        if opset is None and f"{FOLDER}/{RECORD}" in made.files:
            directory.mkdir(parents=True, exist_ok=True)
            record = made.read_json(f"{FOLDER}/{RECORD}")
            for file in made.files:
                target = directory / Path(file).name
                if file.startswith(f"{FOLDER}/") and target.name != RECORD:
                    shutil.copyfile(made.fetch(file), target.with_name(f"{target.name}.part"))
                    target.with_name(f"{target.name}.part").replace(target)
                    made.release(file)
        else:
            record = export_model(
                store.open(artifacts[best]),
                store.open(artifacts["prepare"]),
                directory,
                result["architecture"]["string"],
                opset,
            )
    written = {
        "run": result["run_id"],
        "model": best,
        "artifact": artifacts[best],
        "directory": str(directory),
        **record,
    }
    write_json(directory / RECORD, written)
    return written


@contextlib.contextmanager
def latest_model() -> Iterator[Path]:
    """The weights that the latest run has exported, in a file that is there inside the block.

    Raises:
        InputError: There is no run, or it has exported nothing.
    """
    result = latest_registered(None)
    (uri,) = [stage["artifact"] for stage in result["stages"] if stage["name"] == "register"]
    with services(home_directory()):
        artifact = connect().open(uri)
        name = f"{FOLDER}/{WEIGHTS}"
        if name not in artifact.files:
            raise InputError(
                "--model",
                result["run_id"],
                "has exported nothing",
                fix="write a file with fpnas export, and name it",
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / WEIGHTS
            shutil.copyfile(artifact.fetch(name), path)
            artifact.release(name)
            yield path
