"""A digest of the code that a stage runs, so that its results are reused while it stays equal."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "fpnas"


def code_version(module: str, root: Path | None = None) -> str:
    """Hashes a module and every module of this package that it can reach by imports.

    Imports are found in the source, inside functions too. Each module counts as its syntax tree
    without docstrings, so comments and formatting do not matter. Data files do not count: what a
    stage reads from them reaches it through its configuration.

    Args:
        module: A name such as ``fpnas.stages.coarse``.
        root: The folder that holds the package ``fpnas``; None is where this one is.

    Returns:
        64 hexadecimal digits.

    Raises:
        ModuleNotFoundError: If the package has no such module.

    >>> code_version("fpnas.errors") == code_version("fpnas.errors")
    True
    """
    found = reachable(module, root)
    hashed = hashlib.sha256()
    for name, path in sorted(found.items()):
        hashed.update(f"{name} {_parsed(path, path.stat().st_mtime_ns)[0]}\n".encode())
    return hashed.hexdigest()


def reachable(module: str, root: Path | None = None) -> dict[str, Path]:
    """Finds the modules of this package that a module can reach by imports, and itself.

    Args:
        module: Its name.
        root: The folder that holds the package ``fpnas``; None is where this one is.

    Returns:
        The source files by the modules' names.

    Raises:
        ModuleNotFoundError: If the package has no such module.
    """
    root = root or Path(__file__).resolve().parents[1]
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in found else _source(name, root)
        if path is None:
            continue
        found[name] = path
        # Importing a.b.c runs a and a.b too.
        waiting += [name.rpartition(".")[0]] if "." in name else []
        for level, target, names in _parsed(path, path.stat().st_mtime_ns)[1]:
            base = _absolute(name, path, level, target)
            if base.split(".")[0] == PACKAGE:
                # `from a import b` imports the module a.b when there is one.
                waiting += [base, *(f"{base}.{item}" for item in names)]
    if module not in found:
        raise ModuleNotFoundError(f"there is no module {module!r} under {root}", name=module)
    return found


def _absolute(module: str, path: Path, level: int, target: str) -> str:
    if level == 0:
        return target
    package = module.split(".")
    up = level - 1 if path.name == "__init__.py" else level
    return ".".join([*package[: len(package) - up], *([target] if target else [])])


def _source(module: str, root: Path) -> Path | None:
    base = root.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_name(f"{base.name}.py")):
        if path.is_file():
            return path
    return None


@cache
def _parsed(
    path: Path, _modified_ns: int
) -> tuple[str, tuple[tuple[int, str, tuple[str, ...]], ...]]:
    """The digest of a module's code, and its imports as (level, module, names)."""
    tree = ast.parse(path.read_bytes(), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(_imports(tree))


def _drop_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:]


def _imports(tree: ast.Module) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, ()
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", tuple(alias.name for alias in node.names)
