"""The processes of one torchrun, which share the work of a search or of a training run.

Every rank holds all weights and takes part in the sums that give all ranks the same numbers. In a
search the ranks read the same pictures and draw the same architectures, and each runs its share of
them. In training each runs its share of the pictures of a step.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fpnas.errors import FpnasError

TIMEOUT_SECONDS = 300
"""A rank that waits longer for another one gives up. One that is gone is noticed at once; this is
for one that hangs, and has to bear a large checkpoint's upload and torch.compile."""


_PART = 2**26
"""Numbers that are summed at a time."""


class RanksError(FpnasError):
    """The ranks disagree, or one of them is gone; a checkpoint may be resumed."""

    exit_status = 75


class Ranks:
    """The processes of this computation; a single one unless torchrun started more."""

    def __init__(self, rank: int = 0, size: int = 1, device: str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, device

    @classmethod
    def from_environment(cls, device: str = "cpu") -> Ranks:
        """Joins the process group that torchrun describes, or stands alone."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls(device=device)
        if not dist.is_initialized():
            dist.init_process_group(
                "nccl" if device.startswith("cuda") else "gloo",
                timeout=timedelta(seconds=TIMEOUT_SECONDS),
            )
        return cls(dist.get_rank(), dist.get_world_size(), device)

    def leave(self) -> None:
        """Leaves the process group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def share(self, costs: Sequence[int]) -> list[int]:
        """The items of this rank: dearest first, each to the rank with the least so far."""
        loads = [0] * self.size
        mine = []
        for item in sorted(range(len(costs)), key=lambda item: (-costs[item], item)):
            rank = loads.index(min(loads))
            loads[rank] += costs[item]
            if rank == self.rank:
                mine.append(item)
        return sorted(mine)

    def sum(self, values: Tensor) -> Tensor:
        """Adds the values of all ranks."""
        if self.size > 1:
            _guarded(lambda: dist.all_reduce(values))
        return values

    def of_first(self, values: Tensor) -> Tensor:
        """Gives all ranks what the first one has, which is of one shape everywhere."""
        if self.size == 1:
            return values
        return self.gather(
            values.contiguous().clone()
            if self.rank == 0
            else torch.zeros(values.shape, dtype=values.dtype)
        )

    def gather(self, values: Tensor) -> Tensor:
        """Puts together a tensor of which every rank has some rows, and zeros in the others.

        A part at a time goes to the device, as the tensor may be larger than its memory.

        Args:
            values: On the CPU; overwritten.
        """
        if self.size > 1:
            for part in values.view(-1).split(_PART):
                part.copy_(self.sum(part.to(self.device, copy=True)))
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Adds the gradients of all ranks; a parameter that no rank used stays without one.

        One sum in one order, unlike DistributedDataParallel, which lays its buckets out anew after
        the first step: a run that is resumed must add as the one that went on.
        """
        if self.size == 1:
            return
        listed = list(parameters)
        used = torch.tensor([float(p.grad is not None) for p in listed], device=listed[0].device)
        self.sum(used)
        shared = [p for p, count in zip(listed, used.tolist(), strict=True) if count]
        flat = torch.cat(
            [(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in shared]
        )
        self.sum(flat)
        for parameter, part in zip(shared, flat.split([p.numel() for p in shared]), strict=True):
            parameter.grad = part.view_as(parameter)

    def average_buffers(self, buffers: Iterable[Tensor]) -> None:
        """Replaces floating-point buffers by their mean over all ranks."""
        listed = [buffer for buffer in buffers if buffer.is_floating_point()]
        if self.size == 1 or not listed:
            return
        flat = self.sum(torch.cat([buffer.reshape(-1) for buffer in listed])) / self.size
        parts = flat.split([buffer.numel() for buffer in listed])
        for buffer, part in zip(listed, parts, strict=True):
            buffer.copy_(part.view_as(buffer))

    def check_equal(self, values: Tensor, what: str) -> None:
        """Makes sure that all ranks hold the same tensor.

        Args:
            values: The tensor.
            what: Its name in the message.

        Raises:
            RanksError: They do not, or one is gone.
        """
        if self.size == 1:
            return
        digest = hashlib.sha256(values.cpu().contiguous().numpy().tobytes()).digest()
        mine = torch.tensor(list(digest[:8]), dtype=torch.int64, device=self.device)
        lowest, highest = mine.clone(), mine.clone()
        _guarded(lambda: dist.all_reduce(lowest, dist.ReduceOp.MIN))
        _guarded(lambda: dist.all_reduce(highest, dist.ReduceOp.MAX))
        if not torch.equal(lowest, highest):
            raise RanksError(f"rank {self.rank} of {self.size} does not hold the same {what}")


def _guarded(collective: object) -> None:
    try:
        collective()  # type: ignore[operator]
    except RuntimeError as error:
        raise RanksError(f"another rank is gone: {error}") from error
