"""The sensor that starts the pipeline, and what its checks find."""

from __future__ import annotations

import copy
import functools
import re

import pytest

from validation import custom_resources, events, kustomize


@functools.cache
def built():
    return kustomize.build_base(["argo-events"])


@pytest.fixture
def manifests():
    return copy.deepcopy(built())


def test_a_sensor_may_start_workflows_and_nothing_else(manifests, find):
    sensor = find(manifests, "Sensor", "fpnas-retrain")
    account = sensor["spec"]["template"]["serviceAccountName"]
    bindings = [
        item["roleRef"]["name"]
        for item in manifests
        if item["kind"] == "RoleBinding" and account in [s["name"] for s in item["subjects"]]
    ]
    assert bindings == [account]
    assert find(manifests, "Role", account)["rules"] == [
        {"apiGroups": ["argoproj.io"], "resources": ["workflows"], "verbs": ["create"]}
    ]


def test_what_is_reached_from_outside_has_no_rights(manifests, find):
    account = find(manifests, "EventSource", "fpnas-retrain")["spec"]["template"][
        "serviceAccountName"
    ]
    assert find(manifests, "ServiceAccount", account)["automountServiceAccountToken"] is False
    assert events.check(manifests) == []
    find(manifests, "EventSource", "fpnas-retrain")["spec"]["template"]["serviceAccountName"] = (
        "fpnas-submitter"
    )
    assert "fpnas-submitter has rights" in " ".join(map(str, events.check(manifests)))


@pytest.fixture
def pinned():
    return kustomize.build_base(["argo-events", "pinned-images"])


def test_a_policy_that_refuses_the_images_of_the_bus_is_found(pinned, find):
    assert events.check(pinned) == []
    policy = find(pinned, "ValidatingAdmissionPolicy", "fpnas-pinned-images")
    (refused,) = [v for v in policy["spec"]["variables"] if v["name"] == "refused"]
    refused["expression"] = refused["expression"].replace("natsio/", "nats/")
    problems = " ".join(map(str, events.check(pinned)))
    assert "refuses its image natsio/prometheus-nats-exporter" in problems
    assert "its image nats:" not in problems


@pytest.mark.parametrize(
    "image", ["evil/nats:1", "docker.io/evil/natsio/a:1", "natsiox/a:1", "natsio/a:1@sha256:b"]
)
def test_no_other_image_is_let_in_for_the_bus(pinned, find, image):
    policy = find(pinned, "ValidatingAdmissionPolicy", "fpnas-pinned-images")
    text = " ".join(v["expression"] for v in policy["spec"]["variables"])
    patterns = re.findall(r"image\.matches\('([^']+)'\)", text)
    assert len(patterns) == 3
    assert not any(re.search(pattern, image) for pattern in patterns)


def test_containers_that_somebody_adds_later_are_held_to_digests_too(pinned, find):
    policy = find(pinned, "ValidatingAdmissionPolicy", "fpnas-pinned-images")["spec"]
    (rule,) = policy["matchConstraints"]["resourceRules"]
    assert rule["resources"] == ["pods", "pods/ephemeralcontainers"]
    (images,) = [v["expression"] for v in policy["variables"] if v["name"] == "images"]
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        assert f"object.spec.{kind}.map(c, c.image)" in images


def test_its_policies_select_the_pods_by_the_names_of_their_makers(manifests, find):
    for kind, policy, key in (
        ("EventBus", "event-bus", "eventbus-name"),
        ("EventSource", "event-source", "eventsource-name"),
        ("Sensor", "sensor", "sensor-name"),
    ):
        (made,) = [item for item in manifests if item["kind"] == kind]
        selector = find(manifests, "NetworkPolicy", policy)["spec"]["podSelector"]["matchLabels"]
        assert selector == {key: made["metadata"]["name"]}


def test_nothing_is_wrong(manifests):
    assert events.check(manifests) == []
    for kind in ("EventBus", "EventSource", "Sensor"):
        (found,) = [item for item in manifests if item["kind"] == kind]
        assert custom_resources.check(found) == []


def workflow(spec):
    return spec["triggers"][0]["template"]["k8s"]["source"]["resource"]["spec"]


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("EventBus", lambda spec: spec["jetstream"].update(replicas=1), "jetstream.replicas"),
        ("EventSource", lambda spec: spec["webhook"]["asked"].pop("authSecret"), "authSecret"),
        ("EventSource", lambda spec: spec["calendar"]["weekly"].update(schedule="weekly"), "sched"),
        ("Sensor", lambda spec: spec.update(dependancies=[]), "dependancies"),
        ("Sensor", lambda spec: workflow(spec).update(workflowTemplateReff={}), "Reff"),
        ("Sensor", lambda spec: spec["triggers"][0].update(retryStrategi={}), "retryStrategi"),
    ],
)
def test_a_wrong_field_is_found(manifests, kind, change, words):
    (found,) = [item for item in manifests if item["kind"] == kind]
    change(found["spec"])
    problems = custom_resources.check(found)
    assert any(words in str(problem) for problem in problems), problems


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda spec: spec["dependencies"][0].update(eventName="daily"), "nothing sends"),
        (lambda spec: spec["triggers"][0]["template"].update(conditions="daily"), "no dependency"),
        (lambda spec: spec["template"].update(serviceAccountName="nobody"), "does not exist"),
    ],
)
def test_a_name_that_leads_nowhere_is_found(manifests, change, words, find):
    change(find(manifests, "Sensor", "fpnas-retrain")["spec"])
    assert words in " ".join(map(str, events.check(manifests)))
