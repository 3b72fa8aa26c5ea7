"""The TrainJob of a stage on several nodes, in both engines of a cluster."""

from __future__ import annotations

import json

import pytest
import yaml

from fpnas.errors import InputError
from fpnas.stages.train_job import MANIFEST, POD_FIELDS
from pipelines import names, train_job
from pipelines.argo import workflow_template
from pipelines.compile import compile_pipeline
from pipelines.plan import Request, make_plan

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

NODES = (
    *("resources.train.pool=gpu-spot", "resources.train.gpus=2", "resources.train.nodes=3"),
    *("resources.train.gpu_product=L4", "train.runtime.num_processes=6"),
    *("coarse.num_processes=2", "resources.coarse.nodes=2"),
)


@pytest.fixture(scope="module")
def plan():
    return make_plan(Request(overrides=NODES))


def test_every_node_gets_what_the_table_says_of_the_stage(plan):
    job = train_job.train_job("train", "fpnas-train:1", plan)
    trainer = job["spec"]["trainer"]
    assert (trainer["image"], trainer["numNodes"]) == ("fpnas-train:1", 3)
    size = {"cpu": "4", "memory": "12Gi", "ephemeral-storage": "20Gi", "nvidia.com/gpu": "2"}
    assert trainer["resourcesPerNode"] == {"requests": size, "limits": size}
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]
    assert pod["spec"]["nodeSelector"] == {
        "fpnas.io/pool": "gpu-spot",
        "nvidia.com/gpu.product": "L4",
    }
    assert [t["key"] for t in pod["spec"]["tolerations"]] == ["nvidia.com/gpu", "fpnas.io/spot"]
    assert job["spec"]["activeDeadlineSeconds"] == plan.resources.stages["train"].timeout_seconds


def test_kueue_admits_the_job_and_not_its_pods_one_by_one(plan):
    job = train_job.train_job("train", "fpnas-train:1", plan)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "fpnas"
    (patch,) = job["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    labels = node["template"]["spec"]["template"]["metadata"]["labels"]
    run = f"fpnas-{plan.info.run_id}"
    assert labels == {"fpnas.io/stage": "train", "fpnas.io/run": run}
    assert job["metadata"]["labels"]["fpnas.io/run"] == run


def test_keys_are_in_the_job_by_reference_only(plan):
    variables = train_job.train_job("train", "fpnas-train:1", plan)["spec"]["trainer"]["env"]
    keys = [v for v in variables if v["name"] in names.S3_SECRET_KEYS]
    assert [v["valueFrom"]["secretKeyRef"]["name"] for v in keys] == ["fpnas-s3", "fpnas-s3"]


@pytest.mark.parametrize(
    ("path", "misspelt"),
    [
        (("spec",), "runtimePatch"),
        (("spec", "trainer"), "numberOfNodes"),
        (("spec", "runtimePatches", 0, "trainingRuntimeSpec", "template", "spec"), "jobs"),
    ],
)
def test_a_misspelt_field_of_trainer_is_caught(plan, path, misspelt):
    job = json.loads(json.dumps(train_job.train_job("train", "fpnas-train:1", plan)))
    place = job
    for key in path:
        place = place[key]
    place[misspelt] = "x"
    with pytest.raises(ValueError, match=misspelt):
        train_job.checked(job)


def test_a_wrong_type_and_another_version_are_caught(plan):
    job = train_job.train_job("train", "fpnas-train:1", plan)
    with pytest.raises(ValueError, match="numNodes"):
        train_job.checked({**job, "spec": {**job["spec"], "trainer": {"numNodes": "3"}}})
    with pytest.raises(ValueError, match="v1 is not"):
        train_job.checked({**job, "apiVersion": "trainer.kubeflow.org/v1"})


def test_both_engines_start_the_same_job_from_a_small_pod(plan, tmp_path):
    compile_pipeline(plan, tmp_path / "ir.yaml")
    specification, platform = yaml.safe_load_all((tmp_path / "ir.yaml").read_text())
    templates = yaml.safe_load(workflow_template(plan))["spec"]["templates"]
    own = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for stage in ("train", "coarse"):
        container = specification["deploymentSpec"]["executors"][f"exec-{stage}"]["container"]
        in_kfp = {v["name"]: v.get("value") for v in container["env"]}[MANIFEST]
        pod = next(t for t in templates if t["name"] == stage)
        in_argo = {v["name"]: v for v in pod["container"]["env"]}
        assert json.loads(in_kfp) == json.loads(in_argo[MANIFEST]["value"])
        assert json.loads(in_kfp)["spec"]["trainer"]["image"] == container["image"]
        fields = {v["name"]: v["fieldPath"] for v in own[f"exec-{stage}"]["fieldPathAsEnv"]}
        assert fields == dict(POD_FIELDS)
        assert {
            name: in_argo[name]["valueFrom"]["fieldRef"]["fieldPath"] for name in POD_FIELDS
        } == dict(POD_FIELDS)
        assert "accelerator" not in container["resources"]
        size = {"cpu": "500m", "memory": "2Gi", "ephemeral-storage": "2Gi"}
        assert pod["container"]["resources"]["limits"] == size
        assert pod["nodeSelector"] == own[f"exec-{stage}"]["nodeSelector"]["labels"]
        assert pod["nodeSelector"] == {"fpnas.io/pool": "cpu"}


def test_a_stage_on_one_node_has_no_job(plan):
    assert train_job.train_job_variables("decode", "x", plan).values == {}


def test_the_models_are_named_when_they_are_missing(plan, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"fpnas\[nodes\]"):
        train_job.train_job("train", "x", plan)
