"""Quotas and queues: does what is deployed fit, and do the pools mean the same everywhere?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction

from pipelines.resources import POOL_LABEL, load_resources
from validation.objects import Finding, Manifest, Pod, name_of, of_kind, pods

# The node pools that stages know, and the taints of their nodes.
POOLS: dict[str, frozenset[tuple[str, str, str]]] = {
    name: frozenset((taint.key, taint.value, taint.effect) for taint in pool.taints)
    for name, pool in load_resources({}).pools.items()
}
_UNITS = {"m": Fraction(1, 1000), "": Fraction(1)}
_UNITS |= {unit: Fraction(1000**power) for power, unit in enumerate("kMGTPE", 1)}
_UNITS |= {f"{unit}i": Fraction(1024**power) for power, unit in enumerate("KMGTPE", 1)}


def quantity(text: str | int) -> Fraction:
    """Returns a Kubernetes quantity (``250m``, ``1Gi``, ``4``) as a number."""
    text = str(text)
    number = text.rstrip("mkKMGTPEi")
    return Fraction(number) * _UNITS[text[len(number) :]]


def check(manifests: Sequence[Manifest]) -> list[Finding]:
    """Checks the quota of the namespace and the queues."""
    return [*_quota(manifests), *_queues(manifests)]


def services(manifests: Sequence[Manifest]) -> Counter[str]:
    """Returns what the project's own pods ask for together, as quota names: ``requests.cpu``."""
    total: Counter[str] = Counter()
    for pod in pods(manifests):
        if pod.namespace == "fpnas":
            total["pods"] += pod.replicas
            for name, value in _requested(pod).items():
                total[name] += value * pod.replicas  # type: ignore[assignment]
    for manifest in of_kind(manifests, "StatefulSet"):
        for claim in manifest["spec"].get("volumeClaimTemplates", []):
            total["persistentvolumeclaims"] += 1
            size = claim["spec"]["resources"]["requests"]["storage"]
            total["requests.storage"] += quantity(size)  # type: ignore[assignment]
    return total


def _requested(pod: Pod) -> dict[str, Fraction]:
    """A pod needs the sum of its containers, or its largest init container if that is more."""
    needed: dict[str, Fraction] = {}
    for kind in ("requests", "limits"):
        for resource in ("cpu", "memory"):
            first, then = (
                [
                    quantity(container["resources"][kind][resource])
                    for container in pod.spec.get(group, [])
                    if resource in container.get("resources", {}).get(kind, {})
                ]
                for group in ("initContainers", "containers")
            )
            needed[f"{kind}.{resource}"] = max([sum(then, Fraction(0)), *first])
    return needed


def _quota(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    quotas = of_kind(manifests, "ResourceQuota")
    if not quotas:
        yield Finding("ResourceQuota/fpnas", "is missing")
    for quota in quotas:
        hard = quota["spec"]["hard"]
        for name, value in services(manifests).items():
            if name not in hard:
                yield Finding(name_of(quota), f"does not limit {name}")
            # Half is for runs: a quota that the services fill lets no pipeline start.
            elif name.startswith(("requests.cpu", "requests.memory", "limits")):
                if 2 * value > quantity(hard[name]):
                    yield Finding(name_of(quota), f"leaves less than half of {name} to runs")
            elif value > quantity(hard[name]):
                yield Finding(name_of(quota), f"has less {name} than the services need")


def _queues(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    flavors = {item["metadata"]["name"]: item for item in of_kind(manifests, "ResourceFlavor")}
    for name, flavor in flavors.items():
        pool = flavor["spec"]["nodeLabels"].get(POOL_LABEL)
        taints = frozenset(
            (taint["key"], taint["value"], taint["effect"])
            for taint in flavor["spec"].get("nodeTaints", [])
        )
        if pool != name or POOLS.get(name) != taints:
            yield Finding(name_of(flavor), f"is not the pool {name} as stages know it")
    if flavors and set(flavors) != set(POOLS):
        yield Finding("ResourceFlavor", f"are {sorted(flavors)}, the pools {sorted(POOLS)}")
    queues = {item["metadata"]["name"]: item for item in of_kind(manifests, "ClusterQueue")}
    for queue in queues.values():
        for group in queue["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                if flavor["name"] not in flavors:
                    yield Finding(name_of(queue), f"flavor {flavor['name']} does not exist")
    for local in of_kind(manifests, "LocalQueue"):
        if local["spec"]["clusterQueue"] not in queues:
            yield Finding(name_of(local), "its cluster queue does not exist")
    yield from _admitted(manifests, list(queues.values()))


def _admitted(manifests: Sequence[Manifest], queues: Sequence[Manifest]) -> Iterator[Finding]:
    """The namespace's quota must not hold back what the queues admit."""
    admitted: Counter[str] = Counter()
    for queue in queues:
        for group in queue["spec"]["resourceGroups"]:
            for flavor in group["flavors"]:
                for resource in flavor["resources"]:
                    admitted[resource["name"]] += quantity(resource["nominalQuota"])  # type: ignore[assignment]
    needed = services(manifests)
    for quota in of_kind(manifests, "ResourceQuota"):
        hard = quota["spec"]["hard"]
        for name in hard:
            # A stage's limits are its requests; GPUs have a quota for requests only.
            resource = name.removeprefix("requests.").removeprefix("limits.")
            if resource in admitted and admitted[resource] + needed[name] > quantity(hard[name]):
                yield Finding(name_of(quota), f"has less {name} than the queues and the services")
