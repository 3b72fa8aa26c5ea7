"""What is in the manifests: all checks pass, and facts that no single check states."""

import pytest
import yaml

from fpnas import __version__
from pipelines import names
from pipelines.plan import load_profile
from pipelines.resources import load_resources
from validation import capacity, kustomize, network, references
from validation.__main__ import check
from validation.objects import RUN_TIME_PODS, of_kind, pods

OVERLAYS = ("eks", "gke", "kind", "onprem")
WORKFLOW, TRAIN_JOB, *_ = RUN_TIME_PODS
MLFLOW = {"app.kubernetes.io/name": "mlflow"}
BACKUP = {"app.kubernetes.io/name": "mlflow-backup"}
POSTGRES = {"app.kubernetes.io/name": "postgres"}
SEAWEEDFS = {"app.kubernetes.io/name": "seaweedfs"}


def test_there_are_these_overlays():
    assert tuple(kustomize.overlays()) == OVERLAYS


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_passes_all_checks(overlay, name):
    assert check(overlay(name)) == []


@pytest.mark.parametrize("name", ["kind", "onprem"])
def test_overlays_by_tag_take_the_image_that_is_built_here(overlay, name):
    used = {c["image"] for pod in pods(overlay(name)) for c in pod.containers}
    assert {i.rpartition(":")[2] for i in used if "fpnas-tracking" in i} == {__version__}


@pytest.mark.parametrize("components", list(kustomize.combinations()), ids="+".join)
def test_components_can_be_combined(components):
    assert check(kustomize.build_base(components)) == []


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_has_the_names_that_stages_use(overlay, find, name):
    manifests = overlay(name)
    assert (
        find(manifests, "ServiceAccount", names.SERVICE_ACCOUNT)["metadata"]["namespace"] == "fpnas"
    )
    assert set(names.STORAGE_KEYS) <= set(
        find(manifests, "ConfigMap", names.STORAGE_CONFIG_MAP)["data"]
    )
    assert references.SECRETS[names.S3_SECRET] == set(names.S3_SECRET_KEYS)
    assert references.OPTIONAL_KEYS[names.S3_SECRET] == set(names.OPTIONAL_S3_SECRET_KEYS)
    if name != "kind":  # a laptop has one pool and no queue
        assert find(manifests, "LocalQueue", names.QUEUE)["metadata"]["namespace"] == "fpnas"


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_who_has_to_reaches_the_services(overlay, name):
    manifests = overlay(name)
    assert network.reaches(manifests, WORKFLOW, MLFLOW, 5000)
    assert network.reaches(manifests, TRAIN_JOB, MLFLOW, 5000)
    assert network.reaches(manifests, TRAIN_JOB, TRAIN_JOB, 29500)
    assert not network.reaches(manifests, BACKUP, MLFLOW, 5000)
    assert not network.reaches(manifests, {"app": "stranger"}, MLFLOW, 5000)
    assert not network.reaches(manifests, MLFLOW, WORKFLOW, 5000)


@pytest.mark.parametrize("name", ["kind", "onprem"])
def test_the_services_inside_are_reached(overlay, name):
    manifests = overlay(name)
    for client in (MLFLOW, BACKUP):
        assert network.reaches(manifests, client, POSTGRES, 5432)
    assert not network.reaches(manifests, WORKFLOW, POSTGRES, 5432)
    for client in (MLFLOW, BACKUP, WORKFLOW, TRAIN_JOB):
        assert network.reaches(manifests, client, SEAWEEDFS, 8333)
        # Its other ports take no credentials.
        assert not network.reaches(manifests, client, SEAWEEDFS, 8888)
    policies = {item["metadata"]["name"] for item in of_kind(manifests, "NetworkPolicy")}
    assert not policies & {"database", "s3"}  # nothing outside to reach


@pytest.mark.parametrize("name", OVERLAYS)
def test_nobody_reaches_a_cloud_s_metadata_server(overlay, name):
    # It would give a stage the credentials of its node.
    for policy in of_kind(overlay(name), "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            for peer in rule["to"]:
                if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
                    assert peer["ipBlock"]["except"] == ["169.254.0.0/16"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_mlflow_answers_under_its_address_and_no_other(overlay, find, name):
    from mlflow.server.security_utils import is_allowed_host_header

    manifests = overlay(name)
    (container,) = find(manifests, "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    (option,) = [text for text in container["args"] if text.startswith("--allowed-hosts=")]
    hosts = option.removeprefix("--allowed-hosts=").replace("$(NAMESPACE)", "fpnas").split(",")
    address = find(manifests, "ConfigMap", "fpnas-storage")["data"]["MLFLOW_TRACKING_URI"]
    assert is_allowed_host_header(hosts, address.removeprefix("http://"))
    assert is_allowed_host_header(hosts, "localhost:5000")
    assert not is_allowed_host_header(hosts, "mlflow.example.com:5000")


@pytest.mark.parametrize("name", ["eks", "gke"])
def test_a_cloud_has_two_tracking_servers_and_refuses_tags(overlay, find, name):
    manifests = overlay(name)
    assert find(manifests, "Deployment", "mlflow")["spec"]["replicas"] == 2
    assert find(manifests, "PodDisruptionBudget", "mlflow")["spec"]["minAvailable"] == 1
    binding = find(manifests, "ValidatingAdmissionPolicyBinding", "fpnas-pinned-images")
    assert binding["spec"]["validationActions"] == ["Deny"]


def test_a_pool_that_does_not_exist_has_no_quota(overlay, find):
    quotas = {}
    for name in ("eks", "gke", "onprem"):
        (group,) = find(overlay(name), "ClusterQueue", "fpnas")["spec"]["resourceGroups"]
        quotas[name] = {
            flavor["name"]: int(flavor["resources"][-1]["nominalQuota"])
            for flavor in group["flavors"]
        }
    assert quotas["onprem"] == {"cpu": 0, "gpu": 4, "gpu-spot": 0}
    assert quotas["eks"] == quotas["gke"] == {"cpu": 0, "gpu": 4, "gpu-spot": 8}


@pytest.mark.parametrize("name", ["eks", "gke", "onprem"])
@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_every_stage_fits_its_pool(overlay, find, name, profile):
    resources = load_resources(load_profile(profile).get("resources", {}))
    (group,) = find(overlay(name), "ClusterQueue", "fpnas")["spec"]["resourceGroups"]
    quotas = {
        flavor["name"]: {item["name"]: item["nominalQuota"] for item in flavor["resources"]}
        for flavor in group["flavors"]
    }
    too_large = {
        stage
        for stage, own in resources.stages.items()
        for resource, needed in (
            ("cpu", own.cpu),
            ("memory", own.memory),
            ("ephemeral-storage", own.scratch),
            ("nvidia.com/gpu", own.gpus),
        )
        if capacity.quantity(needed) > capacity.quantity(quotas[own.pool][resource])
    }
    # Without spot machines a search of the profile "paper" needs another pool.
    searches = {"coarse", "fine"} if (name, profile) == ("onprem", "paper") else set()
    assert too_large == searches


def test_kind_has_room_for_every_stage_of_a_laptop(overlay, find):
    manifests = overlay("kind")
    services = capacity.services(manifests)
    hard = find(manifests, "ResourceQuota", "fpnas")["spec"]["hard"]
    for own in load_resources({}).stages.values():
        for kind in ("requests", "limits"):
            for resource, needed in (("cpu", own.cpu), ("memory", own.memory)):
                name = f"{kind}.{resource}"
                # Two stages run beside each other: train and distill.
                assert services[name] + 2 * capacity.quantity(needed) <= capacity.quantity(
                    hard[name]
                )


def test_kind_s_node_is_in_the_cpu_pool():
    config = yaml.safe_load((kustomize.K8S / "overlays/kind/cluster.yaml").read_text())
    assert [node["labels"] for node in config["nodes"]] == [{capacity.POOL_LABEL: "cpu"}]


def test_the_device_plugin_runs_where_gpus_are(overlay, find):
    spec = find(overlay("eks"), "DaemonSet", "nvidia-device-plugin")["spec"]["template"]["spec"]
    tolerated = {(item["key"], item["value"], item["effect"]) for item in spec["tolerations"]}
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    (rule,) = term["matchExpressions"]
    assert rule["key"] == capacity.POOL_LABEL
    with_gpus = {name for name, taints in capacity.POOLS.items() if taints}
    assert set(rule["values"]) == with_gpus
    assert tolerated == set.union(*(set(capacity.POOLS[name]) for name in with_gpus))


def test_no_pod_of_the_project_needs_an_exception(overlay):
    from validation.pod_security import restricted

    subjects = [
        pod.subject
        for name in OVERLAYS
        for pod in pods(overlay(name))
        if pod.namespace == "fpnas" and not list(restricted(pod.spec))
    ]
    assert len(subjects) == 2 + 2 + 5 + 5  # MLflow and its backup; with a database, S3, its bucket
