"""Which quota keeps a stage's pod from being made: it does not exist then, and no event tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

_SIDECARS = {"cpu": "500m", "memory": "512Mi"}
"""What the engine's own containers in a pod take at most: the LimitRange of k8s/base/quota.yaml."""


def asked_for(run: Mapping[str, Any], stage: str) -> dict[str, Decimal]:
    """What a stage's pod adds to a quota's use.

    Args:
        run: As KFP gives it, with what was compiled.
        stage: Name; of a stage that the run does not have, only the engine's containers count.

    Returns:
        Amounts, by the names that quotas have for them.
    """
    from kubernetes.utils.quantity import parse_quantity

    whole = run.get("pipeline_spec", {})
    specification = whole.get("pipeline_spec", whole)
    executor = specification.get("deploymentSpec", {}).get("executors", {}).get(f"exec-{stage}", {})
    own = executor.get("container", {}).get("resources", {})
    asked = {"pods": Decimal(1), "count/pods": Decimal(1)}
    for kind, beside in _SIDECARS.items():
        for quota, word in ((f"requests.{kind}", "Request"), (f"limits.{kind}", "Limit")):
            amount = own.get(f"resource{kind.capitalize()}{word}", "0")
            asked[quota] = parse_quantity(amount) + parse_quantity(beside)
        asked[kind] = asked[f"requests.{kind}"]
    accelerator = own.get("accelerator")
    if accelerator:
        gpus = parse_quantity(accelerator["resourceCount"])
        asked[f"requests.{accelerator['resourceType']}"] = gpus
    return asked


def too_small(quotas: Sequence[Mapping[str, Any]], asked: Mapping[str, Decimal]) -> list[str]:
    """The quotas that have less left than is asked for, as clauses.

    Args:
        quotas: As Kubernetes' API gives them.
        asked: From :func:`asked_for`.
    """
    from kubernetes.utils.quantity import parse_quantity

    found = []
    for quota in quotas:
        status = quota.get("status", {})
        used = status.get("used", {})
        short = [
            f"{key} {used.get(key, '0')} of {hard}"
            for key, hard in sorted(status.get("hard", {}).items())
            if key in asked
            and parse_quantity(used.get(key, "0")) + asked[key] > parse_quantity(hard)
        ]
        if short:
            found.append(f"{quota['metadata']['name']} ({', '.join(short)} used)")
    return found
