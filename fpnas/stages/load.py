"""How busy a machine is with other work, so that times taken beside it can be told from clean ones.

Linux tells both what the whole machine has computed (``/proc/stat``) and what every process has.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

_PROC = Path("/proc")
# Fields of /proc/<pid>/stat behind the name, which may hold spaces and brackets.
_PARENT, _OWN_AND_REAPED_TICKS = 1, slice(11, 15)
# user, nice, system, irq, softirq and steal of /proc/stat; the others are idle, or count twice.
_BUSY = (0, 1, 2, 5, 6, 7)

DISTURBED = 0.1
"""Share of the machine that others may take before a time counts as disturbed; our choice."""


class OtherLoad:
    """The processor cores that others have kept busy since this was made.

    Args:
        root: Process whose descendants are not "others"; by default this one.
    """

    def __init__(self, root: int | None = None) -> None:
        self._root = root or os.getpid()
        self._started = time.monotonic()
        self._before = self._others()

    def cores(self) -> float | None:
        """Mean number of busy cores; None where the machine does not tell."""
        after, seconds = self._others(), time.monotonic() - self._started
        if self._before is None or after is None or seconds <= 0:
            return None
        return max(0.0, (after - self._before) / seconds)

    def _others(self) -> float | None:
        """Core-seconds of all processes but ours, since the machine started."""
        try:
            fields = (_PROC / "stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
            busy = sum(int(fields[index]) for index in _BUSY)
            return (busy - _ticks_below(self._root)) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None


def is_disturbed(other_cores: float | None) -> bool:
    """Whether so much of the machine was taken by others that a time should be taken again."""
    return other_cores is not None and other_cores > DISTURBED * (os.cpu_count() or 1)


def _ticks_below(root: int) -> int:
    """Clock ticks of a process, its descendants, and those of them that have ended."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in _PROC.iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has just ended
            continue
        fields = text.rpartition(")")[2].split()
        pid = int(folder.name)
        parents[pid] = int(fields[_PARENT])
        ticks[pid] = sum(int(value) for value in fields[_OWN_AND_REAPED_TICKS])
    ours = {root}
    while found := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= found
    return sum(ticks.get(pid, 0) for pid in ours)
