"""The container images: which stages each runs, what it is called, and which code is in it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping

from fpnas import __version__
from fpnas.code_version import code_version
from fpnas.errors import InputError

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "prepare": ("prepare",),
    "decode": ("decode",),
    "search": ("coarse", "fine"),
    "train": ("train", "distill", "register", "baseline"),
}
"""The stages of each image; a family is what has the same packages. Small images come first."""

TRACKING = "tracking"
"""The image of MLflow's server, which runs no stage."""

CODE_LABEL = "io.fpnas.code"
"""Label of an image: :func:`code_digest` of its family when it was built."""

BY_DIGEST = re.compile(r"[a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64}")


def image(family: str, environ: Mapping[str, str] = os.environ) -> str:
    """Returns the image of a family of :data:`FAMILIES`, or of :data:`TRACKING`.

    ``FPNAS_IMAGES`` pins images by digest, as ``fpnas-NAME=REPOSITORY@sha256:DIGEST`` with spaces
    or line ends between them, which is what ``make push-images`` writes. Without it
    ``FPNAS_IMAGE_PREFIX`` says where images are, such as ``registry.example.com/team/fpnas``, and
    they are named by the version.

    Raises:
        InputError: ``FPNAS_IMAGES`` is malformed, or has not this image.
    """
    pinned = environ.get("FPNAS_IMAGES", "").split()
    if not pinned:
        return f"{environ.get('FPNAS_IMAGE_PREFIX') or 'fpnas'}-{family}:{__version__}"
    names = [f"fpnas-{name}" for name in (*FAMILIES, TRACKING)]
    found = parse_pins(pinned, names, "FPNAS_IMAGES")
    if f"fpnas-{family}" not in found:
        raise InputError(
            "FPNAS_IMAGES", " ".join(pinned), f"does not name fpnas-{family}",
            fix=f"add fpnas-{family}=REPOSITORY@sha256:DIGEST, or unset it",
        )  # fmt: skip
    return found[f"fpnas-{family}"]


def parse_pins(pins: Iterable[str], names: Iterable[str], field: str) -> dict[str, str]:
    """Reads images by digest, as ``NAME=REPOSITORY@sha256:DIGEST``.

    Args:
        pins: What the user gave.
        names: The legal names.
        field: Where, for the error.

    Returns:
        The references by name.

    Raises:
        InputError: One is malformed, unknown, or named twice.
    """
    legal = sorted(names)
    found: dict[str, str] = {}
    for pin in pins:
        name, _, reference = pin.partition("=")
        if name not in legal:
            raise InputError(
                field, pin, "names no image that is used here",
                legal=", ".join(legal), fix="give one of these names",
            )  # fmt: skip
        if not BY_DIGEST.fullmatch(reference):
            raise InputError(
                field, pin, "is not an image by digest",
                legal=f"{name}=REPOSITORY@sha256:<64 hexadecimal digits>",
                fix="take the digest that the registry gave when the image was pushed",
            )  # fmt: skip
        if found.setdefault(name, reference) != reference:
            raise InputError(field, pin, f"names {name} a second time", fix="give it once")
    return found


def code_digest(family: str) -> str:
    """Digest of the code that the stages of a family run, without comments and docstrings.

    An image whose label :data:`CODE_LABEL` differs was built from other code than this.

    Returns:
        64 hexadecimal digits.
    """
    modules = ["fpnas.stages.entry", *(f"fpnas.stages.{stage}" for stage in FAMILIES[family])]
    lines = [f"{module} {code_version(module)}\n" for module in modules]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
