"""What stages tell the engine while they run: one JSON object a line, appended to a file."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

STATUS_FILE = "FPNAS_STATUS_FILE"
"""Environment variable with the file's path; without it nothing is written."""


class Events:
    """Appends events of one stage. Lines are short, so that appends of processes do not mix."""

    def __init__(self, stage: str, *, silent: bool = False) -> None:
        path = None if silent else os.environ.get(STATUS_FILE)
        self._path = Path(path) if path else None
        self._stage = stage
        self._last_progress = 0.0

    def write(self, event: str, **fields: Any) -> None:
        """Appends an event."""
        if self._path is None:
            return
        line = json.dumps({"event": event, "stage": self._stage, "time": time.time(), **fields})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def progress(self, done: float, total: float, message: str = "") -> None:
        """Reports progress, at most five times a second; the end is always reported."""
        now = time.monotonic()
        if done < total and now - self._last_progress < 0.2:
            return
        self._last_progress = now
        self.write("progress", done=done, total=total, message=message)
