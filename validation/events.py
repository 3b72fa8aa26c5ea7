"""Argo Events: fields, and names that point from a sensor to its events.

The fields that we use are written down here after the definitions of Argo Events v1.9; any other is
refused. hera's models of them are not used: they nest what the definitions have inline.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from pipelines.strict import check_fields
from validation.objects import Finding, Manifest, name_of, of_kind

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
_Cron = Annotated[str, StringConstraints(pattern=r"^[\d*/,-]+( [\d*/,-]+){4}$")]
_Port = Annotated[str, StringConstraints(pattern=r"^\d{1,5}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Capabilities(_Strict):
    drop: list[str]


class _ContainerSecurity(_Strict):
    allowPrivilegeEscalation: Literal[False]  # noqa: N815
    readOnlyRootFilesystem: Literal[True]  # noqa: N815
    capabilities: _Capabilities


class _Container(_Strict):
    resources: dict[Literal["requests", "limits"], dict[str, str]]
    securityContext: _ContainerSecurity  # noqa: N815


class _Seccomp(_Strict):
    type: Literal["RuntimeDefault"]


class _PodSecurity(_Strict):
    runAsNonRoot: Literal[True]  # noqa: N815
    runAsUser: int = Field(ge=1)  # noqa: N815
    fsGroup: int = Field(ge=1)  # noqa: N815
    seccompProfile: _Seccomp  # noqa: N815


class _Template(_Strict):
    serviceAccountName: _Name  # noqa: N815
    securityContext: _PodSecurity  # noqa: N815
    container: _Container


class _JetStream(_Strict):
    version: str
    replicas: int = Field(ge=3)  # JetStream's consensus needs three
    containerTemplate: _Container  # noqa: N815
    securityContext: _PodSecurity  # noqa: N815


class EventBus(_Strict):
    """What carries events from sources to sensors."""

    jetstream: _JetStream


class _Calendar(_Strict):
    schedule: _Cron
    timezone: str


class _SecretKey(_Strict):
    name: _Name
    key: str


class _Webhook(_Strict):
    endpoint: Annotated[str, StringConstraints(pattern=r"^/")]
    method: Literal["GET", "POST"]
    port: _Port
    authSecret: _SecretKey  # noqa: N815


class _ServicePort(_Strict):
    port: int
    targetPort: int  # noqa: N815


class _Service(_Strict):
    ports: list[_ServicePort] = Field(min_length=1)


class EventSource(_Strict):
    """What makes events."""

    template: _Template
    service: _Service
    calendar: dict[str, _Calendar]
    webhook: dict[str, _Webhook]


class _Dependency(_Strict):
    name: _Name
    eventSourceName: _Name  # noqa: N815
    eventName: _Name  # noqa: N815


class _Source(_Strict):
    resource: dict[str, Any]

    def model_post_init(self, context: Any, /) -> None:
        """What is made is a workflow, with fields that Argo has."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of hera's models
            from hera.workflows.models import Workflow

            model = Workflow.model_validate(self.resource)
            back = model.model_dump(mode="json", by_alias=True, exclude_none=True)
        check_fields(self.resource, back, "Argo's Workflow")


class _Kubernetes(_Strict):
    operation: Literal["create"]
    source: _Source


class _TriggerTemplate(_Strict):
    name: _Name
    conditions: str
    k8s: _Kubernetes


class _Retry(_Strict):
    steps: int = Field(ge=1)
    duration: Annotated[str, StringConstraints(pattern=r"^\d+(ms|s|m|h)$")]


class _Trigger(_Strict):
    template: _TriggerTemplate
    retryStrategy: _Retry  # noqa: N815


class Sensor(_Strict):
    """What is done when events come."""

    template: _Template
    dependencies: list[_Dependency] = Field(min_length=1)
    triggers: list[_Trigger] = Field(min_length=1)


MODELS: dict[tuple[str, str], type[BaseModel]] = {
    ("argoproj.io/v1alpha1", model.__name__): model for model in (EventBus, EventSource, Sensor)
}


# What Argo Events' own configuration names for a bus of JetStream; the versions are examples.
BUS_IMAGES = (
    "nats:2.10.29",
    "natsio/prometheus-nats-exporter:0.14.0",
    "natsio/nats-server-config-reloader:0.14.0",
)


def check(manifests: Sequence[Manifest]) -> list[Finding]:
    """Checks accounts, that events are sent, and that the pods of a bus are let in."""
    return [*_accounts(manifests), *_events(manifests), *_bus(manifests)]


def _accounts(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    known = {manifest["metadata"]["name"] for manifest in of_kind(manifests, "ServiceAccount")}
    bound = {
        subject["name"]
        for binding in of_kind(manifests, "RoleBinding")
        for subject in binding["subjects"]
    }
    for kind in ("EventSource", "Sensor"):
        for manifest in of_kind(manifests, kind):
            account = manifest["spec"]["template"]["serviceAccountName"]
            if account not in known:
                yield Finding(name_of(manifest), f"service account {account} does not exist")
            if kind == "EventSource" and account in bound:
                yield Finding(name_of(manifest), f"is reached from outside; {account} has rights")


def _bus(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    """A policy for images must know those of a bus, which no manifest names."""
    for policy in of_kind(manifests, "ValidatingAdmissionPolicy"):
        expressions = " ".join(item["expression"] for item in policy["spec"]["variables"])
        patterns = re.findall(r"image\.matches\('([^']+)'\)", expressions)
        for bus in of_kind(manifests, "EventBus"):
            for image in BUS_IMAGES:
                if not any(re.search(pattern, image) for pattern in patterns):
                    yield Finding(name_of(bus), f"{name_of(policy)} refuses its image {image}")


def _events(manifests: Sequence[Manifest]) -> Iterator[Finding]:
    sent = {
        (source["metadata"]["name"], event)
        for source in of_kind(manifests, "EventSource")
        for kind in ("calendar", "webhook")
        for event in source["spec"][kind]
    }
    for sensor in of_kind(manifests, "Sensor"):
        waits = {item["name"]: item for item in sensor["spec"]["dependencies"]}
        for item in waits.values():
            if (item["eventSourceName"], item["eventName"]) not in sent:
                yield Finding(name_of(sensor), f"nothing sends the event {item['eventName']}")
        for trigger in sensor["spec"]["triggers"]:
            words = trigger["template"]["conditions"].replace("(", " ").replace(")", " ").split()
            for word in words:
                if word not in ("||", "&&") and word not in waits:
                    yield Finding(name_of(sensor), f"waits for {word}, which is no dependency")
