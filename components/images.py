"""The container image of each stage family."""

from __future__ import annotations

import os

from fpnas import __version__


def image(family: str) -> str:
    """Returns the image of a stage family: ``prepare``, ``search``, ``decode`` or ``train``.

    ``FPNAS_IMAGE_PREFIX`` says where the images are, such as ``registry.example.com/team/fpnas``.
    """
    prefix = os.environ.get("FPNAS_IMAGE_PREFIX", "fpnas")
    return f"{prefix}-{family}:{__version__}"
