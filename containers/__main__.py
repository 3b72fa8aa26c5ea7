"""Build the images, or push them: `python -m containers --help`."""

from __future__ import annotations

import csv
import os
import platform
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from containers.build import BASE, TARGETS, Built, build, revision
from containers.pip_settings import installed_settings
from containers.push import push
from containers.tool import find_tool
from fpnas.errors import InputError, run_command

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
_LOGS = Path("build/images")
ToolOption = Annotated[str | None, typer.Option(help="podman or docker; default: what works.")]


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, str], None]]:
    """Shows the last line on a terminal, and every step of the Dockerfile elsewhere."""

    def last_line(target: str, line: str) -> None:
        status.update(escape(f"{target}: {line}"[: console.width - 4]))

    def steps(target: str, line: str) -> None:
        if "STEP" in line or line.startswith("#"):
            sys.stderr.write(f"{target}: {line[:120]}\n")

    if not console.is_terminal:
        yield steps
        return
    with console.status("") as status:
        yield last_line


def _rows(built: Sequence[Built]) -> Iterator[dict[str, object]]:
    seen: set[str] = set()
    for one in built:
        own = [layer for layer in one.layers if layer not in seen]
        seen.update(own)
        yield {
            "image": one.target,
            "megabytes": round(one.num_bytes / 1e6),
            "layers": len(one.layers),
            "own_layers": len(own),
            "build_seconds": round(one.seconds, 1),
        }


def _table(built: Sequence[Built]) -> Table:
    table = Table("image", "MB", "layers", "its own", "build", "name", box=None)
    for row, one in zip(_rows(built), built, strict=True):
        table.add_row(
            str(row["image"]),
            f"{row['megabytes']:,}",
            str(row["layers"]),
            str(row["own_layers"]),
            f"{one.seconds:.0f} s",
            one.name,
        )
    return table


def _record(path: Path, built: Sequence[Built], tool: str, base: str) -> None:
    common = {
        "base": base,
        "tool": tool,
        "commit": revision()[:7],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    rows = [{**row, **common} for row in _rows(built)]
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


@app.command("build")
def build_images(
    targets: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(TARGETS)}; default: all.")
    ] = None,
    base: Annotated[str, typer.Option(help="The base image.")] = BASE,
    tool: ToolOption = None,
    cache: Annotated[bool, typer.Option(help="Use layers of earlier builds.")] = True,
    record: Annotated[Path | None, typer.Option(help="CSV file for what was built.")] = None,
) -> None:
    """Build images, and print their sizes."""
    for target in targets or ():
        if target not in TARGETS:
            raise InputError(
                "TARGETS", target, "is no image", legal=", ".join(TARGETS), fix="name one of them"
            )
    found = find_tool(tool)
    wanted = [target for target in TARGETS if not targets or target in targets]
    with _progress(Console(stderr=True)) as show:
        built = build(
            found,
            wanted,
            base,
            installed_settings(),
            _LOGS,
            show,
            cache_key="" if cache else secrets.token_hex(8),
        )
    Console().print(_table(built))
    if record:
        _record(record, built, found.name, base)


@app.command("push")
def push_images(
    output: Annotated[Path, typer.Option(help="Gets the images by digest.")],
    tool: ToolOption = None,
) -> None:
    """Push all images to the registry of FPNAS_IMAGE_PREFIX, and write their digests."""
    pins = push(find_tool(tool), TARGETS)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(f"{pin}\n" for pin in pins), encoding="utf-8")
    Console().print(output.read_text(encoding="utf-8"), end="", soft_wrap=True)


def main() -> None:
    """Runs a command; an error is one message and its exit status."""
    run_command(app)


if __name__ == "__main__":
    main()
