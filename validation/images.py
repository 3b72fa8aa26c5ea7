"""Images by digest: which overlays must have them, and how they come in.

A tag can be moved to other content, so a cloud overlay runs nothing that is not named by digest.
The digests are not in the repository: a placeholder could be deployed by mistake. They are given
when an overlay is rendered, and rendering without them is refused; in the cluster the
``pinned-images`` component refuses the pods.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from fpnas.errors import InputError
from validation.objects import Finding, Manifest, pods

BY_DIGEST = re.compile(r"[a-z0-9][a-z0-9._/:-]*@sha256:[0-9a-f]{64}")
CLOUD_OVERLAYS = ("eks", "gke")


def unpinned(manifests: Iterable[Manifest]) -> list[Finding]:
    """Returns a finding for every image that is not named by digest."""
    return [
        Finding(pod.subject, f"image {container['image']} is not named by digest")
        for pod in pods(manifests)
        for container in pod.containers
        if not BY_DIGEST.fullmatch(container["image"])
    ]


def names(manifests: Iterable[Manifest]) -> list[str]:
    """Returns the images that the pods use."""
    return sorted({c["image"] for pod in pods(manifests) for c in pod.containers})


def kustomize_images(pins: Iterable[str], used: Iterable[str]) -> list[Mapping[str, Any]]:
    """Turns ``NAME=REPOSITORY@sha256:DIGEST`` into kustomize's ``images``.

    Args:
        pins: What the user gave.
        used: The images that the overlay uses; all have to be pinned.

    Raises:
        InputError: If one is malformed, unknown or missing.
    """
    used = set(used)
    images: list[Mapping[str, Any]] = []
    for pin in pins:
        name, _, reference = pin.partition("=")
        if name not in used:
            raise InputError(
                "--image", pin, "names no image of the overlay",
                legal=", ".join(sorted(used)), fix="give one of these names",
            )  # fmt: skip
        if not BY_DIGEST.fullmatch(reference):
            raise InputError(
                "--image", pin, "is not an image by digest",
                legal=f"{name}=REPOSITORY@sha256:<64 hexadecimal digits>",
                fix="take the digest that the registry printed when the image was pushed",
            )  # fmt: skip
        repository, _, digest = reference.partition("@")
        images.append({"name": name, "newName": repository, "digest": digest})
    missing = sorted(used - {image["name"] for image in images})
    if missing:
        raise InputError(
            "--image", "(not given)", f"is missing for {', '.join(missing)}",
            fix=f"add --image {missing[0]}=REPOSITORY@sha256:DIGEST",
        )  # fmt: skip
    return images
