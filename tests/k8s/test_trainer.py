"""The component for stages on several nodes, and the pods that it makes with a stage's TrainJob."""

import pytest

from pipelines.plan import Request, make_plan
from pipelines.train_job import train_job
from validation import kustomize, network, pod_security, schemas
from validation.__main__ import check


@pytest.fixture
def manifests():
    return kustomize.build_base(("trainer",))


@pytest.fixture(scope="module")
def job():
    nodes = ("resources.train.pool=gpu", "resources.train.gpus=8", "resources.train.nodes=2")
    plan = make_plan(Request(overrides=(*nodes, "train.runtime.num_processes=16")))
    return train_job("train", "fpnas-train:1", plan)


def named(manifests, kind, name):
    (found,) = [m for m in manifests if (m["kind"], m["metadata"]["name"]) == (kind, name)]
    return found


def node_of(runtime):
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    return node


def pod_of(manifests, job):
    """The pod of a node as Trainer makes it: the runtime, patched by the job, for its trainer."""
    reference = job["spec"]["runtimeRef"]
    node = node_of(named(manifests, reference["kind"], reference["name"]))
    (patch,) = job["spec"]["runtimePatches"]
    (patched,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert patched["name"] == node["name"]
    pod = {
        **node["template"]["spec"]["template"]["spec"],
        **patched["template"]["spec"]["template"]["spec"],
    }
    trainer = job["spec"]["trainer"]
    (container,) = pod["containers"]
    taken = {key: trainer[key] for key in ("image", "command", "env")}
    pod["containers"] = [{**container, **taken, "resources": trainer["resourcesPerNode"]}]
    return pod


def test_a_node_of_a_job_is_a_valid_pod_at_the_restricted_level(manifests, job):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "node", "namespace": "fpnas"},
        "spec": pod_of(manifests, job),
    }
    assert schemas.check([pod]) == []
    assert pod_security.check([pod]) == []
    mounted = {m["name"] for m in pod["spec"]["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["spec"]["volumes"]}


def test_the_job_fails_as_a_whole_and_is_not_started_again_by_itself(manifests):
    runtime = named(manifests, "TrainingRuntime", "fpnas")
    assert runtime["spec"]["template"]["spec"]["failurePolicy"] == {"maxRestarts": 0}
    job = node_of(runtime)["template"]["spec"]
    assert job["backoffLimit"] == 0
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_only_this_component_lets_a_stage_make_train_jobs_and_nothing_more(manifests):
    role = named(manifests, "Role", "fpnas-train-jobs")
    rights = {(g, r): rule["verbs"] for rule in role["rules"] for g in rule["apiGroups"]
              for r in rule["resources"]}  # fmt: skip
    assert rights == {
        ("trainer.kubeflow.org", "trainjobs"): ["create", "get", "delete"],
        ("", "pods"): ["list"],
    }
    for other in kustomize.build_base(()):
        for rule in other.get("rules", []):
            assert "trainjobs" not in rule["resources"]


def test_nodes_reach_each_other_on_any_port(manifests):
    node, other = {"jobset.sigs.k8s.io/jobset-name": "a"}, {"app.kubernetes.io/name": "mlflow"}
    assert network.reaches(manifests, node, node, 29500)
    assert network.reaches(manifests, node, node, 41234)
    assert not network.reaches(manifests, other, node, 29500)


@pytest.mark.parametrize(
    ("break_it", "problem"),
    [
        (lambda spec, _: spec.update(mlPolicies={}), "spec.mlPolicies"),
        (lambda _, job: job.update(backoffLimits=0), "backoffLimits"),
        (lambda _, job: job.update(backoffLimit="none"), "backoffLimit"),
        (lambda _, job: job["template"]["spec"].update(hostNetwork=True), "hostNetwork"),
    ],
)
def test_a_wrong_field_of_the_runtime_is_found(manifests, break_it, problem):
    runtime = named(manifests, "TrainingRuntime", "fpnas")
    assert check(manifests) == []
    break_it(runtime["spec"], node_of(runtime)["template"]["spec"])
    assert problem in "\n".join(map(str, check(manifests)))
