"""Check objects against Kubernetes' own schemas, in which an unknown field is an error."""

from __future__ import annotations

from collections.abc import Iterable

import kubernetes_validate

from validation import custom_resources
from validation.objects import Finding, Manifest, name_of

KUBERNETES = "1.37"


def check(manifests: Iterable[Manifest]) -> list[Finding]:
    """Checks every object strictly; custom resources against their models here."""
    findings: list[Finding] = []
    seen: set[str] = set()
    for manifest in manifests:
        subject = name_of(manifest)
        if subject in seen:
            findings.append(Finding(subject, "is there twice"))
        seen.add(subject)
        try:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            findings += custom_resources.check(manifest)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(map(str, error.path))
            findings.append(Finding(subject, f"{path}: {error.message}"))
    return findings
