"""What is only needed for something, and may not be installed: packages, a compiler."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Mapping

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


def require_compiler(environ: Mapping[str, str] = os.environ) -> None:
    """Makes sure that there is the C++ compiler that ``torch.compile`` calls.

    Raises:
        InputError: There is none.
    """
    compiler = environ.get("CXX", "g++")
    if shutil.which(compiler, path=environ.get("PATH")) is None:
        raise InputError(
            "recipe.compile",
            True,
            f"needs a C++ compiler, and {compiler} is not installed",
            fix="install g++ (for an image: a base that has it), or set recipe.compile=false",
        )
