"""From a dataset artifact to the normalized batches that search and training work with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fpnas.data.augment import normalize
from fpnas.data.dataset import Dataset
from fpnas.data.loader import ImageLoader
from fpnas.errors import InputError
from fpnas.parallel import Ranks
from fpnas.storage import Artifact
from fpnas.training.loop import TrainingBatches


def open_dataset(artifact: Artifact) -> Dataset:
    """Opens a dataset whose shards are fetched, verified and given up one at a time."""
    return Dataset(artifact.fetch, release=artifact.release)


class Batches:
    """A loader's batches, normalized by the dataset's own statistics, on the loader's device.

    Iterates over (images float32 (B, 3, S, S), labels (B,), rows of the split (B,)).
    """

    def __init__(self, loader: ImageLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        dataset = self.loader.dataset
        for images, labels, rows in self.loader:
            self.show(images, rows)
            pictures = normalize(images, dataset.mean, dataset.std)
            yield (
                pictures.contiguous(memory_format=torch.channels_last),
                labels.to(images.device, non_blocking=True),
                rows,
            )

    def show(self, images: Tensor, rows: Tensor) -> None:
        """Is given every batch before it is used: uint8 (B, 3, S, S) on the device, rows (B,)."""

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """The loader's position."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves the loader."""
        self.loader.load_state_dict(state)


class LabelledBatches(Batches):
    """The same without the rows: what a search and an evaluation need."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        for images, labels, _ in super().__iter__():
            yield images, labels


def share_unreadable(batches: TrainingBatches, ranks: Ranks) -> None:
    """Tells every process which pictures the others could not decode."""
    if ranks.size == 1:
        return
    state = batches.state_dict()
    own: dict[str, str] = state["unreadable"]
    found = torch.zeros(state["num_images"], device=ranks.device)
    found[[int(row) for row in own]] = 1.0
    rows = torch.nonzero(ranks.sum(found)).flatten().tolist()
    everybodys = {str(row): "on another process" for row in rows} | own
    batches.load_state_dict({**state, "unreadable": everybodys})


@cache
def device_of(name: str) -> str:
    """Resolves a device name.

    Raises:
        InputError: The device is not there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError("runtime.device", name, "is not there", legal="auto, cpu", fix="use auto")
    return name
