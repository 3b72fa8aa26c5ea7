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


def open_dataset(artifact: Artifact) -> Dataset:
    """Opens a dataset whose shards are fetched, verified and given up one at a time."""
    return Dataset(artifact.fetch, release=artifact.release)


class Batches:
    """A loader's batches, normalized by the dataset's own statistics, on a device.

    Iterates over (images float32 (B, 3, S, S), labels (B,), rows of the split (B,)).
    """

    def __init__(self, loader: ImageLoader, device: str) -> None:
        self.loader, self.device = loader, device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        dataset = self.loader.dataset
        for images, labels, rows in self.loader:
            pictures = normalize(images.to(self.device), dataset.mean, dataset.std)
            yield (
                pictures.contiguous(memory_format=torch.channels_last),
                labels.to(self.device),
                rows,
            )

    def __len__(self) -> int:
        return len(self.loader)

    def state_dict(self) -> dict[str, Any]:
        """The loader's position."""
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Moves the loader."""
        self.loader.load_state_dict(state)

    def share_unreadable(self, ranks: Ranks) -> None:
        """Tells every process which pictures the others could not decode."""
        unreadable = self.loader.unreadable
        found = torch.zeros(self.loader.num_images, device=ranks.device)
        found[list(unreadable.reasons)] = 1.0
        elsewhere = torch.nonzero(ranks.sum(found)).flatten().tolist()
        unreadable.load_state_dict(
            {row: "on another process" for row in elsewhere if row not in unreadable.reasons}
        )


class LabelledBatches(Batches):
    """The same without the rows: what a search and an evaluation need."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:  # type: ignore[override]
        for images, labels, _ in super().__iter__():
            yield images, labels


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
