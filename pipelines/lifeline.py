"""The engine's end of the pipe that a stage holds on to, in a process or in a container.

A named pipe in the run's folder works across the walls of a container on the same machine. Its
end of file, which the kernel brings about even when the engine is killed with -9, ends the stage;
a byte asks the stage to stop. A byte that comes between two stages waits for the next one.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self


class Lifeline:
    """A pipe that this process alone holds open for writing.

    Attributes:
        path: Where it is; a pipe that an earlier engine left there is replaced, so that stages of
            that engine do not take this one for it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def __enter__(self) -> Self:
        self.path.unlink(missing_ok=True)
        os.mkfifo(self.path, 0o600)
        # For reading too, else opening it would wait for a reader.
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Asks the running stage, or else the next one, to write a checkpoint and to end."""
        os.write(self._descriptor, b".")
