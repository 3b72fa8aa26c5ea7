"""Images by digest: which overlays must have them, and how they come in.

A tag can be moved to other content, so a cloud overlay runs nothing that is not named by digest.
The digests are not in the repository: a placeholder could be deployed by mistake. They are given
when an overlay is rendered, and rendering without them is refused; in the cluster the
``pinned-images`` component refuses the pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from components.images import BY_DIGEST, parse_pins
from fpnas.errors import InputError
from validation.objects import Finding, Manifest, pods

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
        InputError: If one is malformed, unknown, given twice or missing.
    """
    used = set(used)
    references = parse_pins(pins, used, "--image")
    images: list[Mapping[str, Any]] = []
    for name, reference in references.items():
        repository, _, digest = reference.partition("@")
        images.append({"name": name, "newName": repository, "digest": digest})
    missing = sorted(used - set(references))
    if missing:
        raise InputError(
            "--image", "(not given)", f"is missing for {', '.join(missing)}",
            fix=f"add --image {missing[0]}=REPOSITORY@sha256:DIGEST",
        )  # fmt: skip
    return images
