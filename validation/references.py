"""Names that point from one object to another: does what they name exist?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from validation.objects import Finding, Manifest, name_of, of_kind, pods, selects

# The secrets that a cluster must have, and their keys. They are made outside of the manifests.
SECRETS: dict[str, frozenset[str]] = {
    "fpnas-s3": frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}),
    "fpnas-mlflow-db": frozenset({"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD"}),
}
# What they may have besides.
OPTIONAL_KEYS: dict[str, frozenset[str]] = {"fpnas-s3": frozenset({"AWS_SESSION_TOKEN"})}


def check(manifests: Sequence[Manifest]) -> list[Finding]:
    """Checks accounts, roles, secrets, config maps, selectors and the store's two descriptions."""
    rules = (_accounts, _roles, _secrets, _config_maps, _selectors, _store)
    return [finding for rule in rules for finding in rule(manifests)]


def _named(manifests: Sequence[Manifest], kind: str) -> dict[tuple[str, str], Manifest]:
    return {
        (manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]): manifest
        for manifest in of_kind(manifests, kind)
    }


def _accounts(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    known = _named(manifests, "ServiceAccount")
    for pod in pods(manifests):
        account = pod.spec.get("serviceAccountName")
        if account is None and pod.namespace != "fpnas":
            continue
        if (pod.namespace, account) not in known:
            yield Finding(pod.subject, f"service account {account} does not exist")


def _roles(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    accounts, roles = _named(manifests, "ServiceAccount"), _named(manifests, "Role")
    for binding in of_kind(manifests, "RoleBinding"):
        namespace = binding["metadata"]["namespace"]
        if (namespace, binding["roleRef"]["name"]) not in roles:
            yield Finding(name_of(binding), f"role {binding['roleRef']['name']} does not exist")
        for subject in binding["subjects"]:
            if (subject.get("namespace", namespace), subject["name"]) not in accounts:
                yield Finding(name_of(binding), f"subject {subject['name']} does not exist")
    for role in [*of_kind(manifests, "Role"), *of_kind(manifests, "ClusterRole")]:
        for rule in role["rules"]:
            if "*" in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]:
                yield Finding(name_of(role), "must not use *")
            if "secrets" in rule["resources"] and not rule.get("resourceNames"):
                yield Finding(name_of(role), "must name the secrets that it reads")


def _secrets(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    for secret in of_kind(manifests, "Secret"):
        yield Finding(name_of(secret), "secrets are made outside of the manifests")
    for pod in pods(manifests):
        for reference in _pod_references(pod.spec, "secretKeyRef"):
            known = OPTIONAL_KEYS if reference.get("optional") else SECRETS
            if reference["key"] not in known.get(reference["name"], ()):
                problem = f"secret {reference['name']} has no key {reference['key']}"
                yield Finding(pod.subject, problem)
    made = {item["spec"]["target"]["name"]: item for item in of_kind(manifests, "ExternalSecret")}
    for name in set(SECRETS) - set(made) if made else ():
        yield Finding(f"ExternalSecret/fpnas/{name}", "is missing")
    for name, item in made.items():
        keys = frozenset(entry["secretKey"] for entry in item["spec"]["data"])
        needed = SECRETS.get(name, frozenset())
        if not needed <= keys <= needed | OPTIONAL_KEYS.get(name, frozenset()):
            yield Finding(name_of(item), f"makes the keys {sorted(keys)}")


def _config_maps(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    known = _named(manifests, "ConfigMap")
    for pod in pods(manifests):
        for reference in _pod_references(pod.spec, "configMapKeyRef"):
            name, key = reference["name"], reference["key"]
            if key not in known.get((pod.namespace, name), {}).get("data", {}):
                yield Finding(pod.subject, f"config map {name} has no key {key}")
        for volume in pod.spec.get("volumes", []):
            name = volume.get("configMap", {}).get("name")
            if name and (pod.namespace, name) not in known:
                yield Finding(pod.subject, f"config map {name} does not exist")


def _pod_references(spec: Mapping[str, Any], kind: str) -> Iterator[Mapping[str, Any]]:
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get(kind)
            if reference:
                yield reference


def _selectors(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    known = list(pods(manifests))
    for service in of_kind(manifests, "Service"):
        chosen = [
            pod
            for pod in known
            if pod.namespace == service["metadata"]["namespace"]
            and selects({"matchLabels": service["spec"]["selector"]}, pod.labels)
        ]
        if not chosen:
            yield Finding(name_of(service), "selects no pod")
        ports = {
            port["name"]
            for pod in chosen
            for container in pod.containers
            for port in container.get("ports", [])
        }
        for port in service["spec"]["ports"]:
            if chosen and port["targetPort"] not in ports:
                yield Finding(name_of(service), f"no container has the port {port['targetPort']}")
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        chosen = [pod for pod in known if selects(budget["spec"]["selector"], pod.labels)]
        if not chosen:
            yield Finding(name_of(budget), "selects no pod")
        elif sum(pod.replicas for pod in chosen) <= budget["spec"].get("minAvailable", 0):
            yield Finding(name_of(budget), "never lets a node be drained")


def _store(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """The launcher of Kubeflow Pipelines and our own code must mean the same store."""
    maps = _named(manifests, "ConfigMap")
    storage = maps["fpnas", "fpnas-storage"]["data"]
    launcher = maps["fpnas", "kfp-launcher"]["data"]
    default = yaml.safe_load(launcher["providers"])["s3"]["default"]
    scheme = "http" if default["disableSSL"] else "https"
    expected = {
        "S3_ENDPOINT_URL": f"{scheme}://{default['endpoint']}",
        "AWS_DEFAULT_REGION": default["region"],
        "FPNAS_STORAGE": launcher["defaultPipelineRoot"].removesuffix("/pipelines"),
    }
    for key, value in expected.items():
        if storage[key] != value:
            yield Finding("ConfigMap/fpnas/kfp-launcher", f"{key} is {storage[key]}, here {value}")
    reference = default["credentials"]["secretRef"]
    if not {reference["accessKeyKey"], reference["secretKeyKey"]} <= SECRETS.get(
        reference["secretName"], frozenset()
    ):
        yield Finding("ConfigMap/fpnas/kfp-launcher", "names a secret that does not exist")
