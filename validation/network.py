"""Network policies: does every one select something, and does what it opens exist?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from validation.objects import (
    RUN_TIME_PODS,
    Finding,
    Manifest,
    Pod,
    name_of,
    of_kind,
    pods,
    selects,
)


def check(manifests: Sequence[Manifest]) -> list[Finding]:
    """Checks the policies of the namespace ``fpnas``."""
    known = [pod for pod in pods(manifests) if pod.namespace == "fpnas"]
    labels = [*(pod.labels for pod in known), *RUN_TIME_PODS]
    policies = of_kind(manifests, "NetworkPolicy")
    findings = list(_denied_by_default(policies))
    for policy in policies:
        if not any(selects(policy["spec"]["podSelector"], item) for item in labels):
            findings.append(Finding(name_of(policy), "selects no pod"))
        findings += _peers(policy, known, labels)
    return findings


def _denied_by_default(policies: Sequence[Manifest]) -> Iterator[Finding]:
    for policy in policies:
        spec = policy["spec"]
        every_pod = spec["podSelector"] == {}
        both_ways = set(spec["policyTypes"]) == {"Ingress", "Egress"}
        if every_pod and both_ways and not spec.get("ingress") and not spec.get("egress"):
            return
    yield Finding("NetworkPolicy/fpnas", "nothing denies by default")


def _peers(
    policy: Manifest, known: Sequence[Pod], labels: Sequence[Mapping[str, str]]
) -> Iterator[Finding]:
    spec, subject = policy["spec"], name_of(policy)
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(direction, []):
            if not rule.get(side):
                yield Finding(subject, f"{direction} is open to everybody")
            for peer in rule.get(side, []):
                selector = peer.get("podSelector")
                if selector is None or "namespaceSelector" in peer:
                    continue
                if not any(selects(selector, item) for item in labels):
                    yield Finding(subject, f"{direction} names pods that do not exist: {selector}")
                server = selector if direction == "egress" else spec["podSelector"]
                yield from _ports(subject, rule, [p for p in known if selects(server, p.labels)])


def _ports(subject: str, rule: Mapping[str, Any], servers: Sequence[Pod]) -> Iterator[Finding]:
    listening = {
        port["containerPort"]
        for pod in servers
        for container in pod.containers
        for port in container.get("ports", [])
    }
    for port in rule.get("ports", []):
        if servers and port["port"] not in listening:
            yield Finding(subject, f"opens port {port['port']}, where nothing listens")


def reaches(manifests: Sequence[Manifest], source: Mapping[str, str], target: Mapping[str, str],
            port: int) -> bool:  # fmt: skip
    """Whether pods with some labels may open a connection to a port of others in the namespace."""
    policies = of_kind(manifests, "NetworkPolicy")
    return _allows(policies, "Egress", source, target, port) and _allows(
        policies, "Ingress", target, source, port
    )


def _allows(policies: Sequence[Manifest], kind: str, pod: Mapping[str, str],
            peer: Mapping[str, str], port: int) -> bool:  # fmt: skip
    side = "to" if kind == "Egress" else "from"
    applying = [
        policy["spec"]
        for policy in policies
        if kind in policy["spec"]["policyTypes"] and selects(policy["spec"]["podSelector"], pod)
    ]
    return not applying or any(
        any(
            "podSelector" in item
            and "namespaceSelector" not in item
            and selects(item["podSelector"], peer)
            for item in rule[side]
        )
        and port in [entry["port"] for entry in rule.get("ports", [{"port": port}])]
        for spec in applying
        for rule in spec.get(kind.lower(), [])
    )
