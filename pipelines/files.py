"""Files that are either the old one or the whole new one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replaces a file by UTF-8 text."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Replaces a file by indented JSON."""
    write_text(path, json.dumps(value, indent=2) + "\n")
