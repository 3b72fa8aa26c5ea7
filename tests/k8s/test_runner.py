"""The opening for GitHub's runners in the cluster: what they reach and what they may do."""

import pytest
import yaml

from pipelines import names
from validation import kustomize
from validation.__main__ import check

RUNNERS = "fpnas-runners"


@pytest.fixture(scope="module")
def manifests():
    return kustomize.build_base(["ci-runner", "seaweedfs"])


def policies(manifests, namespace):
    return [
        item["spec"]
        for item in manifests
        if item["kind"] == "NetworkPolicy" and item["metadata"]["namespace"] == namespace
    ]


def named(peer):
    """The namespace that a peer names, where it does."""
    return (
        peer.get("namespaceSelector", {}).get("matchLabels", {}).get("kubernetes.io/metadata.name")
    )


def ports(rule):
    return [port["port"] for port in rule["ports"]]


def test_nothing_is_wrong(manifests):
    assert check(manifests) == []


def test_the_addresses_that_pods_have_are_open_to_runners(manifests, find):
    data = find(manifests, "ConfigMap", names.STORAGE_CONFIG_MAP)["data"]
    (opening,) = [
        rule
        for spec in policies(manifests, "fpnas")
        for rule in spec.get("ingress", [])
        if RUNNERS in map(named, rule["from"])
    ]
    (way_out,) = [
        rule
        for spec in policies(manifests, RUNNERS)
        for rule in spec["egress"]
        if "fpnas" in map(named, rule["to"])
    ]
    for key in ("MLFLOW_TRACKING_URI", "S3_ENDPOINT_URL"):
        port = int(data[key].rpartition(":")[2])
        assert port in ports(opening)
        assert port in ports(way_out)


def test_nobody_reaches_a_runner_and_it_reaches_no_metadata_server(manifests):
    (spec,) = policies(manifests, RUNNERS)
    assert spec["podSelector"] == {}
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in spec
    blocks = [
        peer["ipBlock"] for rule in spec["egress"] for peer in rule["to"] if "ipBlock" in peer
    ]
    assert {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]} in blocks


def test_a_runner_may_start_and_watch_runs_and_nothing_else(manifests, find):
    account = find(manifests, "ServiceAccount", "fpnas-runner")
    assert account["metadata"]["namespace"] == RUNNERS
    assert account["automountServiceAccountToken"] is False
    bound = [
        item["roleRef"]["name"]
        for item in manifests
        if item["kind"].endswith("RoleBinding")
        if account["metadata"]["name"] in [subject["name"] for subject in item["subjects"]]
    ]
    assert bound == ["fpnas-runner"]
    assert find(manifests, "Role", "fpnas-runner")["rules"] == [
        {
            "apiGroups": ["pipelines.kubeflow.org"],
            "resources": ["experiments", "runs"],
            "verbs": ["create", "get", "list"],
        }
    ]


def test_the_workflow_runs_where_the_repository_says():
    path = kustomize.K8S.parent / ".github" / "workflows" / "retrain.yml"
    (job,) = yaml.safe_load(path.read_text())["jobs"].values()
    assert job["runs-on"] == "${{ vars.FPNAS_RUNNER || 'ubuntu-24.04' }}"
