"""The restricted Pod Security Standard, and what we ask of a pod beyond it.

Source: the Pod Security Standards as Kubernetes publishes them, the baseline and the restricted
profile, without the parts for Windows. Our own: a read-only root file system, requests and limits,
and no token of the cluster's API for pods that do not use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from validation.objects import Finding, Manifest, Pod, pods, runtime_pods

_VOLUMES = frozenset(
    (
        *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
        *("persistentVolumeClaim", "projected", "secret"),
    )
)
_SYSCTLS = frozenset(
    (
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.tcp_syncookies",
        "net.ipv4.ping_group_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
    )
)
_SELINUX_TYPES = ("", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
# Agents of a node, which cannot meet the level, and the rules that each may break.
EXCEPTIONS: dict[str, frozenset[str]] = {
    # It serves the kubelet through a socket in a root-owned folder of the node.
    "DaemonSet/kube-system/nvidia-device-plugin": frozenset({"volumes", "runAsNonRoot"}),
}
_Broken = tuple[str, str]  # the rule and how it is broken


def check(manifests: Sequence[Manifest]) -> list[Finding]:
    """Checks all pods; an exception that is not needed is a finding too."""
    findings = []
    for pod in [*pods(manifests), *runtime_pods(manifests)]:
        broken = list(restricted(pod.spec))
        allowed = EXCEPTIONS.get(pod.subject, frozenset())
        findings += [
            Finding(pod.subject, f"{rule}: {problem}")
            for rule, problem in [*broken, *_ours(pod)]
            if rule not in allowed
        ]
        unused = allowed - {rule for rule, _ in broken}
        findings += [Finding(pod.subject, f"needs no exception from {rule}") for rule in unused]
    return findings


def restricted(spec: Mapping[str, Any]) -> Iterator[_Broken]:
    """Yields what keeps a pod from the restricted level."""
    yield from _of_pod(spec)
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind, []):
            for rule, problem in _of_container(container, spec.get("securityContext", {})):
                yield rule, f"container {container['name']}: {problem}"


def _of_pod(spec: Mapping[str, Any]) -> Iterator[_Broken]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield field, "must not be set"
    for volume in spec.get("volumes", []):
        for kind in set(volume) - {"name"} - _VOLUMES:
            yield "volumes", f"{volume['name']} is a {kind}"
    context = spec.get("securityContext", {})
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in _SYSCTLS:
            yield "sysctls", f"{sysctl['name']} is not a safe one"
    yield from _of_both(context)


def _of_container(container: Mapping[str, Any], of_pod: Mapping[str, Any]) -> Iterator[_Broken]:
    context = container.get("securityContext", {})
    yield from _of_both(context)
    if context.get("privileged"):
        yield "privileged", "must not be set"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation", "must be false"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities", "must drop ALL"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities", "may add NET_BIND_SERVICE only"
    if context.get("procMount", "Default") != "Default":
        yield "procMount", "must be Default"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "hostPorts", "must not be used"
    # A container's own setting counts before its pod's.
    if context.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot", "must be true"
    profile = context.get("seccompProfile", of_pod.get("seccompProfile", {}))
    if profile.get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile", "must be RuntimeDefault or Localhost"
    handlers = [container.get(f"{kind}Probe", {}) for kind in ("startup", "liveness", "readiness")]
    handlers += container.get("lifecycle", {}).values()
    if any(
        handler.get(kind, {}).get("host")
        for handler in handlers
        for kind in ("httpGet", "tcpSocket")
    ):
        yield "probes", "must not name a host"


def _of_both(context: Mapping[str, Any]) -> Iterator[_Broken]:
    if context.get("runAsUser") == 0:
        yield "runAsUser", "must not be 0"
    selinux = context.get("seLinuxOptions", {})
    if selinux.get("type", "") not in _SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions", "must have a container's type and neither user nor role"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
        yield "appArmorProfile", "must not be Unconfined"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "hostProcess", "must not be set"


def _ours(pod: Pod) -> Iterator[_Broken]:
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken", "must be false: no pod here calls the cluster's API"
    yield from contained(pod.containers)


def contained(containers: Sequence[Mapping[str, Any]]) -> Iterator[_Broken]:
    """Yields what containers may write to beside their volumes, or take without a limit."""
    for container in containers:
        name, resources = container["name"], container.get("resources", {})
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield "readOnlyRootFilesystem", f"container {name}: must be true"
        for kind in ("requests", "limits"):
            if set(resources.get(kind, {})) < {"cpu", "memory"}:
                yield "resources", f"container {name}: {kind} must give cpu and memory"
