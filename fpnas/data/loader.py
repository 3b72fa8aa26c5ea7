"""Batches of a split: decoded in threads, in an order that can be resumed anywhere.

What a picture is decoded to does not depend on its augmentation. So what was decoded once can be
kept: when the whole split fits into ``memory_bytes``, later epochs decode nothing and give the same
bits as if they did.

One thread reads batches in their order. Each is then cut into parts, one for each decoding thread,
which decode and augment them into the batch. The next batch is begun while parts of the last are
under way, so no thread waits for another.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from fpnas.data.augment import (
    Augmentation,
    augment,
    decoding_target,
    default_augmentation,
    distort_images,
    get_augmentation,
)
from fpnas.data.dataset import Dataset, ReadableSplit
from fpnas.data.decode import Pixels
from fpnas.data.decoded import DecodedPictures, Encoded
from fpnas.data.order import Rows, epoch_order, num_training_batches, training_batch
from fpnas.data.unreadable import UnreadablePictures
from fpnas.errors import InputError

DEFAULT_MEMORY_BYTES = 1 << 30
_NUM_AHEAD = 2


class Batch(NamedTuple):
    """One batch.

    Attributes:
        images: uint8, (B, 3, S, S), in channels-last memory, which convolutions on CPUs and
            GPUs prefer; `fpnas.data.augment.normalize` makes inputs of them.
        labels: int64, (B,).
        indices: Rows of the split, int64, (B,).
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor


_Begun = tuple[Batch, list[Future[None]]]
"""A batch that is being filled, and the parts to wait for."""


class ImageLoader:
    """Goes through one split of a dataset.

    Training is endless, epoch after epoch, in a shuffled order, and drops the ragged last
    batch; a split smaller than one batch gives one batch of what there is. Evaluation is one
    pass in the order of the index and keeps the last batch; its ranks take every
    ``world_size``-th row.

    Args:
        dataset: The dataset.
        split: ``weights``, ``alpha``, ``train`` or ``val``.
        batch_size: Pictures a batch; in training of all ranks together, which share it.
        input_size: S, pixels.
        training: Whether to shuffle and augment.
        seed: Decides order and augmentation.
        augmentation: A preset's name or an `Augmentation`; None takes the one for this
            source and size. Evaluation takes its crop only.
        rank: This process, from 0.
        world_size: How many processes share the split.
        num_threads: Decoding threads; None takes the processors this process may use, up to 4.
        memory_bytes: Most bytes of decoded pictures to keep. Changes speed only.
        device: Where the images of a batch are given; labels and indices stay on the CPU.
        distort_in_batch: Whether RandAugment, AutoAugment and random erasing work on the batch,
            on its device, and not picture by picture in the decoding threads; equal but for
            rounding. None does so where the device is not the CPU.

    Raises:
        InputError: When a number is outside its range, or there are more ranks than pictures.
    """

    def __init__(
        self,
        dataset: Dataset,
        split: ReadableSplit,
        *,
        batch_size: int,
        input_size: int,
        training: bool,
        seed: int,
        augmentation: str | Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
        num_threads: int | None = None,
        memory_bytes: int = DEFAULT_MEMORY_BYTES,
        device: str = "cpu",
        distort_in_batch: bool | None = None,
    ) -> None:
        if num_threads is None:
            num_threads = min(4, len(os.sched_getaffinity(0)))
        _check_numbers(batch_size, input_size, num_threads, rank, world_size)
        if augmentation is None:
            augmentation = default_augmentation(dataset.source, input_size)
        if isinstance(augmentation, str):
            augmentation = get_augmentation(augmentation)
        self.dataset, self.augmentation = dataset, augmentation
        self.batch_size, self.input_size, self.training = batch_size, input_size, training
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self._table = dataset.split(split)
        self._labels = self._table["class_index"].to_numpy(np.int64)
        largest = min(len(self._table), batch_size)
        if training and largest < world_size:
            raise InputError(
                "world_size",
                world_size,
                f"is more than the {largest} pictures of a step on {split}",
                legal=f"1 to {largest}",
                fix="use fewer processes or more pictures",
            )
        self._window_bytes = _window_bytes(dataset, split)
        numbers, names = pd.factorize(self._table["shard"], sort=True)
        self._shard_of_row = numbers.astype(np.int64)
        self._shard_bytes = np.array([dataset.shards[name].num_bytes for name in names], np.int64)
        self._num_threads = num_threads
        self.device = torch.device(device)
        if distort_in_batch is None:
            distort_in_batch = self.device.type != "cpu"
        self._distorts_in_batch = training and distort_in_batch and augmentation.distorts
        self._pictures = DecodedPictures(
            dataset,
            self._table,
            target=decoding_target(augmentation, input_size, training=training),
            memory_bytes=memory_bytes,
        )
        self._epoch = self._position = 0
        self._ordered_epoch, self._order = -1, np.empty(0, np.int64)

    @property
    def epoch(self) -> int:
        """Epochs gone through."""
        return self._epoch

    @property
    def position(self) -> int:
        """Batches of this epoch that have been handed out."""
        return self._position

    @property
    def num_images(self) -> int:
        """Pictures of the split, over all ranks."""
        return len(self._table)

    def __len__(self) -> int:
        """Batches that this rank gets in an epoch."""
        if self.training:
            return num_training_batches(self.num_images, self.batch_size)
        return -(-len(range(self.rank, self.num_images, self.world_size)) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Yields batches from where the state is; evaluation always begins at its start.

        When a batch is yielded the state already names the next one, so a checkpoint that is
        taken after the step on a batch resumes with the following batch.
        """
        if not self.training:
            self._epoch = self._position = 0
        upcoming = self._steps(self._epoch, self._position)
        ahead: deque[tuple[tuple[int, int], Future[_Begun]]] = deque()
        with (
            ThreadPoolExecutor(self._num_threads, "decode") as decoders,
            ThreadPoolExecutor(1, "read") as reader,
        ):
            try:
                while True:
                    while len(ahead) < _NUM_AHEAD and (step := next(upcoming, None)):
                        ahead.append((step, reader.submit(self._begin, *step, decoders)))
                    if not ahead:
                        return
                    (epoch, position), future = ahead.popleft()
                    batch, parts = future.result()
                    for part in parts:
                        part.result()
                    self._advance(epoch, position)
                    yield self._on_device(self._readable(batch), epoch)
            finally:
                for _, future in ahead:
                    future.cancel()
                reader.shutdown()
                decoders.shutdown(cancel_futures=True)

    def _steps(self, epoch: int, position: int) -> Iterator[tuple[int, int]]:
        while True:
            for step in range(position, len(self)):
                yield epoch, step
            if not self.training:
                return
            epoch, position = epoch + 1, 0

    def _advance(self, epoch: int, position: int) -> None:
        done = position + 1 == len(self)
        self._epoch, self._position = (epoch + 1, 0) if done else (epoch, position + 1)

    def _rows(self, epoch: int, position: int) -> Rows:
        if not self.training:
            mine = np.arange(self.rank, self.num_images, self.world_size)
            return mine[position * self.batch_size :][: self.batch_size]
        if epoch != self._ordered_epoch:
            self._order = epoch_order(
                self._shard_of_row,
                self._shard_bytes,
                self._window_bytes,
                seed=self.seed,
                epoch=epoch,
            )
            self._ordered_epoch = epoch
        return training_batch(
            self._order,
            position,
            batch_size=self.batch_size,
            rank=self.rank,
            world_size=self.world_size,
        )

    def _begin(self, epoch: int, position: int, decoders: ThreadPoolExecutor) -> _Begun:
        """Reads a batch and hands its parts to the decoders."""
        rows = self._rows(epoch, position)
        encoded = self._pictures.read(rows)
        size = self.input_size
        shape = (len(rows), size, size, 3)
        # From pinned memory a GPU copies while both sides go on.
        pinned = self.device.type == "cuda"
        result = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        pixels = result.numpy()
        each = -(-len(rows) // self._num_threads)
        parts = [slice(start, start + each) for start in range(0, len(rows), each)]
        futures = [
            decoders.submit(self._make, rows[part], encoded[part], epoch, pixels[part])
            for part in parts
        ]
        labels = torch.from_numpy(self._labels[rows])
        return Batch(result.permute(0, 3, 1, 2), labels, torch.from_numpy(rows.copy())), futures

    def _make(self, rows: Rows, encoded: Encoded, epoch: int, result: Pixels) -> None:
        pictures = self._pictures.decode(rows, encoded)
        if not self.training:
            result[...] = pictures
            return
        result[...] = augment(
            pictures,
            rows,
            self.augmentation,
            input_size=self.input_size,
            seed=self.seed,
            epoch=epoch,
            distorted=not self._distorts_in_batch,
        )

    def _readable(self, batch: Batch) -> Batch:
        """Replaces unreadable pictures of a training batch, and leaves out others."""
        places = self.unreadable.places(batch.indices.numpy(), fill=self.training)
        if places is None:
            return batch
        images, labels, indices = (values[torch.from_numpy(places)] for values in batch)
        return Batch(images.contiguous(memory_format=torch.channels_last), labels, indices)

    def _on_device(self, batch: Batch, epoch: int) -> Batch:
        # As bytes, a quarter of what they are as floats, and without waiting for the copy.
        images = batch.images.to(self.device, non_blocking=True)
        if self._distorts_in_batch:
            images = distort_images(
                images, batch.indices.numpy(), self.augmentation, seed=self.seed, epoch=epoch
            )
        return batch._replace(images=images)

    @property
    def unreadable(self) -> UnreadablePictures:
        """The pictures that could not be decoded so far."""
        return self._pictures.unreadable

    def state_dict(self) -> dict[str, Any]:
        """Returns the place in the run, what the order depends on, and what was unreadable."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            **self._identity(),
            "unreadable": self.unreadable.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to a place in the run. Takes effect at the next ``iter()``.

        Raises:
            InputError: When the state is of a loader that goes through other batches.
        """
        for field, value in self._identity().items():
            if state[field] != value:
                raise InputError(
                    f"loader.{field}",
                    value,
                    f"differs from the checkpoint's {state[field]}, so the batches would differ",
                    fix=f"resume with {field}={state[field]}, or start a new run",
                )
        if not 0 <= state["position"] < len(self):
            raise InputError(
                "loader.position",
                state["position"],
                "is not in the epoch",
                legal=f"0 to {len(self) - 1}",
                fix="start a new run",
            )
        self._epoch, self._position = state["epoch"], state["position"]
        self.unreadable.load_state_dict(state["unreadable"])

    def _identity(self) -> dict[str, int]:
        return {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "num_images": self.num_images,
            "window_bytes": self._window_bytes,
        }


def _check_numbers(
    batch_size: int, input_size: int, num_threads: int, rank: int, world_size: int
) -> None:
    positive = {"batch_size": batch_size, "input_size": input_size, "num_threads": num_threads}
    for field, value in positive.items():
        if value < 1:
            raise InputError(field, value, "is too small", legal="1 or more", fix="raise it")
    if not 0 <= rank < world_size:
        raise InputError(
            "rank", rank, "is not a process", legal=f"0 to {world_size - 1}", fix="check the launch"
        )


def _window_bytes(dataset: Dataset, split: ReadableSplit) -> int:
    """Returns the bytes of shards that one epoch may hold; 0 stands for all of them.

    A search reads weights and alpha in turns through one cache, so each plans with half of it.
    """
    limit = dataset.cache.limit_bytes
    if dataset.split_bytes("train") <= limit:
        return 0
    return limit if split == "train" else limit // 2
