"""Packages that come with an extra, and are only needed for what it is for."""

from __future__ import annotations

import importlib.util

from fpnas.errors import InputError

EXPORT_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require(*packages: str, extra: str = "export") -> None:
    """Makes sure that packages are installed, without importing them.

    Raises:
        InputError: Naming one that is not.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(
                "package", package, "is not installed", fix=f"pip install 'fpnas[{extra}]'"
            )
