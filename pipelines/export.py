"""The better model of a finished run as files that run elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fpnas.errors import InputError
from fpnas.storage import connect, home_directory
from pipelines.files import write_json
from pipelines.results import finished_runs
from pipelines.run import services

if TYPE_CHECKING:
    from torch import Tensor

    from fpnas.data.loader import ImageLoader

_BATCH_SIZE = 64
_CALIBRATION_BATCH_SIZE, _CALIBRATION_BATCHES = 16, 32


def export_run(name: str | None, directory: Path) -> dict[str, Any]:
    """Exports a run's more accurate model, checked on all validation pictures.

    Args:
        name: Of the run; the latest one by default.
        directory: Where the files go; see :mod:`fpnas.training.export`.

    Returns:
        What was written, and how each file compares with the network.

    Raises:
        InputError: No such run, or packages are missing.
        ExportError: A file does not compute what the network computes.
    """
    from fpnas.data.augment import Augmentation
    from fpnas.data.loader import ImageLoader
    from fpnas.networks.network import Classifier
    from fpnas.stages.batches import open_dataset
    from fpnas.stages.training import load_model
    from fpnas.training.export import export_classifier
    from fpnas.training.inference import ModelCard

    if directory.exists() and not directory.is_dir():
        raise InputError("--output", directory, "is a file", fix="name a folder")
    results = finished_runs([name] if name else None)
    result = max(results, key=lambda r: r["finished"])["result"]
    artifacts = {stage["name"]: stage["artifact"] for stage in result["stages"]}
    best = max(("train", "distill"), key=lambda stage: result[stage]["top1"])
    with services(home_directory()):
        store = connect()
        network, info = load_model(store.open(artifacts[best]))
        dataset = open_dataset(store.open(artifacts["prepare"]))

        def loader(split: Any, batch_size: int) -> ImageLoader:
            return ImageLoader(
                dataset,
                split,
                batch_size=batch_size,
                input_size=info["input_size"],
                training=False,
                seed=0,
                augmentation=Augmentation(eval_crop=info["crop"]),
            )

        card = ModelCard(
            classes=tuple(entry["name"] for entry in info["classes"]),
            input_size=info["input_size"],
            crop=info["crop"],
            architecture=result["architecture"]["string"],
        )
        calibration = islice(
            _pictures(loader("alpha", _CALIBRATION_BATCH_SIZE)), _CALIBRATION_BATCHES
        )
        files = export_classifier(
            Classifier(network, info["mean"], info["std"]),
            directory,
            card,
            checked=_pictures(loader("val", _BATCH_SIZE)),
            calibration=(images for images, _ in calibration),
        )
    written = {
        "run": result["run_id"],
        "model": best,
        "artifact": artifacts[best],
        "directory": str(directory),
        "files": [asdict(file) for file in files],
    }
    write_json(directory / "export.json", written)
    return written


def _pictures(loader: ImageLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Values from 0 to 1, as an exported file takes them."""
    for images, labels, _ in loader:
        yield images.float() / 255, labels
