"""Models of the custom resources that the manifests use, after their definitions.

No package has their JSON schemas, so the fields that we use are written down here, but for those of
Kubeflow Trainer, whose package has models. Any other field is refused, which catches what a
misspelt or outgrown one would be: dropped without a word by the cluster. Sources: the definitions
of Kueue v1beta2 and of External Secrets v1.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from pipelines import train_job
from validation import events
from validation.objects import Finding, Manifest, name_of

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=63)]
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|[kMGTPE]|[KMGTPE]i)?")
Quantity = Annotated[str, StringConstraints(pattern=rf"^{_QUANTITY.pattern}$")]
Duration = Annotated[str, StringConstraints(pattern=r"^(\d+(h|m|s))+$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Taint(_Strict):
    """A taint of a pool's nodes."""

    key: str
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"]


class ResourceFlavor(_Strict):
    """Kueue: the nodes of one pool."""

    nodeLabels: dict[str, str] = Field(min_length=1, max_length=8)  # noqa: N815
    nodeTaints: list[Taint] = Field(default=[], max_length=8)  # noqa: N815


class _Selector(_Strict):
    matchLabels: dict[str, str]  # noqa: N815


class _Preemption(_Strict):
    withinClusterQueue: Literal["Never", "LowerPriority", "LowerOrNewerEqualPriority"]  # noqa: N815


class _Resource(_Strict):
    name: str
    nominalQuota: Quantity  # noqa: N815


class _Flavor(_Strict):
    name: Name
    resources: list[_Resource]


class _ResourceGroup(_Strict):
    coveredResources: list[str] = Field(min_length=1, max_length=16)  # noqa: N815
    flavors: list[_Flavor] = Field(min_length=1, max_length=16)

    def model_post_init(self, context: Any, /) -> None:
        """Kueue wants every flavour to list the covered resources, in their order."""
        for flavor in self.flavors:
            if [resource.name for resource in flavor.resources] != self.coveredResources:
                raise ValueError(f"flavor {flavor.name} must list {self.coveredResources}")


class ClusterQueue(_Strict):
    """Kueue: how much of each pool may be used."""

    namespaceSelector: _Selector  # noqa: N815
    queueingStrategy: Literal["StrictFIFO", "BestEffortFIFO"]  # noqa: N815
    preemption: _Preemption
    resourceGroups: list[_ResourceGroup] = Field(min_length=1, max_length=16)  # noqa: N815


class LocalQueue(_Strict):
    """Kueue: a namespace's way into a cluster queue."""

    clusterQueue: Name  # noqa: N815


class WorkloadPriorityClass(_Strict):
    """Kueue: which of two waiting stages goes first. Its fields are not under ``spec``."""

    value: int = Field(ge=-(2**31), lt=2**31)
    description: str


class _StoreReference(_Strict):
    kind: Literal["SecretStore", "ClusterSecretStore"]
    name: Name


class _Target(_Strict):
    name: Name
    creationPolicy: Literal["Owner", "Orphan", "Merge", "None"]  # noqa: N815


class _RemoteReference(_Strict):
    key: str
    property: str


class _SecretKey(_Strict):
    secretKey: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$")]  # noqa: N815
    remoteRef: _RemoteReference  # noqa: N815


class ExternalSecret(_Strict):
    """External Secrets: a secret that is copied from a secret manager."""

    refreshInterval: Duration  # noqa: N815
    secretStoreRef: _StoreReference  # noqa: N815
    target: _Target
    data: list[_SecretKey] = Field(min_length=1)


class _ServiceAccountReference(_Strict):
    name: Name


class _Jwt(_Strict):
    serviceAccountRef: _ServiceAccountReference  # noqa: N815


class _AwsAuthentication(_Strict):
    jwt: _Jwt


class _Aws(_Strict):
    service: Literal["SecretsManager", "ParameterStore"]
    region: str
    auth: _AwsAuthentication


class _WorkloadIdentity(_Strict):
    clusterLocation: str  # noqa: N815
    clusterName: str  # noqa: N815
    serviceAccountRef: _ServiceAccountReference  # noqa: N815


class _GoogleAuthentication(_Strict):
    workloadIdentity: _WorkloadIdentity  # noqa: N815


class _Google(_Strict):
    projectID: str  # noqa: N815
    auth: _GoogleAuthentication


class _Provider(_Strict):
    aws: _Aws | None = None
    gcpsm: _Google | None = None

    def model_post_init(self, context: Any, /) -> None:
        """A store has one provider."""
        if (self.aws is None) == (self.gcpsm is None):
            raise ValueError("give one provider")


class SecretStore(_Strict):
    """External Secrets: a cloud's secret manager, and as whom it is read."""

    provider: _Provider


_OF_EVERY_OBJECT = ("apiVersion", "kind", "metadata")

MODELS: dict[tuple[str, str], type[BaseModel]] = {
    ("kueue.x-k8s.io/v1beta2", "ResourceFlavor"): ResourceFlavor,
    ("kueue.x-k8s.io/v1beta2", "ClusterQueue"): ClusterQueue,
    ("kueue.x-k8s.io/v1beta2", "LocalQueue"): LocalQueue,
    ("kueue.x-k8s.io/v1beta2", "WorkloadPriorityClass"): WorkloadPriorityClass,
    ("external-secrets.io/v1", "ExternalSecret"): ExternalSecret,
    ("external-secrets.io/v1", "SecretStore"): SecretStore,
    **events.MODELS,
}


def check(manifest: Manifest) -> list[Finding]:
    """Checks a custom resource against its model."""
    subject = name_of(manifest)
    if manifest["apiVersion"].startswith("trainer.kubeflow.org/"):
        return _of_trainer(manifest)
    model = MODELS.get((manifest["apiVersion"], manifest["kind"]))
    if model is None:
        return [Finding(subject, f"{manifest['apiVersion']} {manifest['kind']} has no schema")]
    contents = {key: manifest[key] for key in manifest if key not in _OF_EVERY_OBJECT}
    flat = model is WorkloadPriorityClass
    place = () if flat else ("spec",)
    unknown = set() if flat else set(contents) - {"spec"}
    findings = [Finding(subject, f"{field} is not a field") for field in sorted(unknown)]
    try:
        model.model_validate(contents if flat else contents.get("spec", {}))
    except ValidationError as error:
        findings += [
            Finding(subject, f"{'.'.join(map(str, (*place, *item['loc'])))}: {item['msg']}")
            for item in error.errors()
        ]
    return findings


def _of_trainer(manifest: Manifest) -> list[Finding]:
    """Trainer's package has models of its objects."""
    try:
        train_job.checked(manifest)
    except ValueError as error:
        return [Finding(name_of(manifest), str(error))]
    return []
