"""What the files for a cluster say: resources, secrets by reference, retries."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import yaml

from fpnas.errors import InputError
from fpnas.stages.base import STAGES
from pipelines import names
from pipelines.argo import checked, workflow_template
from pipelines.compile import compile_pipeline
from pipelines.plan import Request, make_plan

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

SPOT = (
    *("resources.coarse.pool=gpu-spot", "resources.coarse.gpus=1"),
    *("resources.coarse.retries.limit=7", "resources.coarse.priority=fpnas-high"),
)


@pytest.fixture(scope="module")
def plan():
    return make_plan(Request(overrides=SPOT))


@pytest.fixture(scope="module")
def documents(plan, tmp_path_factory):
    path = tmp_path_factory.mktemp("ir") / "deep" / "pipeline.yaml"
    compile_pipeline(plan, path)
    assert list(path.parent.iterdir()) == [path]
    return list(yaml.safe_load_all(path.read_text()))


@pytest.fixture(scope="module")
def template(plan):
    return yaml.safe_load(workflow_template(plan))


def test_kfp_gives_a_stage_what_the_table_says(documents):
    specification, platform = documents
    container = specification["deploymentSpec"]["executors"]["exec-coarse"]["container"]
    assert container["resources"]["resourceCpuLimit"] == "4"
    assert container["resources"]["resourceMemoryLimit"] == "12Gi"
    accelerator = container["resources"]["accelerator"]
    assert accelerator["resourceType"] == "nvidia.com/gpu"
    assert accelerator["resourceCount"] == "1"
    task = specification["root"]["dag"]["tasks"]["coarse"]
    assert task["retryPolicy"] == {
        "maxRetryCount": 7,
        "backoffDuration": "30s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": "1800s",
    }
    assert not task["cachingOptions"].get("enableCache")
    own = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-coarse"]
    assert own["nodeSelector"]["labels"] == {"fpnas.io/pool": "gpu-spot"}
    assert [t["key"] for t in own["tolerations"]] == ["nvidia.com/gpu", "fpnas.io/spot"]
    assert own["activeDeadlineSeconds"] == "172800"
    assert {
        "volumeName": "shm",
        "mountPath": "/dev/shm",
        "medium": "Memory",
        "sizeLimit": "4Gi",
    } in (own["emptyDirMounts"])
    assert own["podMetadata"]["labels"] == {
        "fpnas.io/stage": "coarse",
        "kueue.x-k8s.io/queue-name": "fpnas",
        "kueue.x-k8s.io/priority-class": "fpnas-high",
    }
    assert own["securityContext"]["runAsNonRoot"] is True


def test_kfp_takes_secrets_by_reference_for_every_stage(documents):
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == {f"exec-{name}" for name in STAGES}
    for own in executors.values():
        assert own["secretAsEnv"][0]["secretName"] == "fpnas-s3"
        assert own["configMapAsEnv"][0]["configMapName"] == "fpnas-storage"


def test_a_stage_signs_its_requests_for_the_region_of_the_storage(documents, template):
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    stages = {t["name"]: t for t in template["spec"]["templates"] if "container" in t}
    for name in STAGES:
        in_kfp = executors[f"exec-{name}"]["configMapAsEnv"][0]["keyToEnv"]
        assert {"configMapKey": "AWS_DEFAULT_REGION", "envVar": "AWS_DEFAULT_REGION"} in in_kfp
        in_argo = {v["name"]: v.get("valueFrom") for v in stages[name]["container"]["env"]}
        assert in_argo["AWS_DEFAULT_REGION"] == {
            "configMapKeyRef": {"name": "fpnas-storage", "key": "AWS_DEFAULT_REGION"}
        }


def test_temporary_keys_and_another_experiment_are_taken_where_they_are(documents, template):
    executors = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    stages = {t["name"]: t for t in template["spec"]["templates"] if "container" in t}
    for name in STAGES:
        own, env = executors[f"exec-{name}"], stages[name]["container"]["env"]
        optional = {
            variable["envVar"]
            for source in (*own["secretAsEnv"], *own["configMapAsEnv"])
            for variable in source["keyToEnv"]
            if source["optional"]
        }
        assert optional == {"AWS_SESSION_TOKEN", "FPNAS_EXPERIMENT"}
        assert optional == {
            variable["name"]
            for variable in env
            for source in variable.get("valueFrom", {}).values()
            if source.get("optional")
        }


def test_compiling_twice_gives_the_same_files(plan, documents, template, tmp_path):
    compile_pipeline(plan, tmp_path / "again.yaml")
    assert list(yaml.safe_load_all((tmp_path / "again.yaml").read_text())) == documents
    compile_pipeline(plan, tmp_path / "argo.yaml", "argo")
    assert yaml.safe_load((tmp_path / "argo.yaml").read_text()) == template
    assert (tmp_path / "argo.yaml").read_text() == workflow_template(plan)


def test_argo_gives_a_stage_what_the_table_says(template):
    stages = {t["name"]: t for t in template["spec"]["templates"] if "container" in t}
    assert set(stages) == set(STAGES)
    coarse = stages["coarse"]
    # Kueue counts requests, and the scheduler places by them.
    size = {"cpu": "4", "memory": "12Gi", "ephemeral-storage": "20Gi", "nvidia.com/gpu": "1"}
    assert coarse["container"]["resources"] == {"requests": size, "limits": size}
    assert coarse["nodeSelector"] == {"fpnas.io/pool": "gpu-spot"}
    assert [t["key"] for t in coarse["tolerations"]] == ["nvidia.com/gpu", "fpnas.io/spot"]
    assert coarse["retryStrategy"]["limit"] == "7"
    assert coarse["retryStrategy"]["expression"] == "asInt(lastRetry.exitCode) != 2"
    assert json.loads(coarse["podSpecPatch"]) == {"terminationGracePeriodSeconds": 120}
    assert "nvidia.com/gpu" not in stages["decode"]["container"]["resources"]["limits"]


def test_argo_hands_a_stage_its_configuration_and_inputs_as_the_command_takes_them(template):
    """Substitutes the parameters as the controller does, and lets the command parse them."""
    from fpnas.stages.base import RunInfo

    arguments = {p["name"]: p["value"] for p in template["spec"]["arguments"]["parameters"]}
    for name, stage in STAGES.items():
        stage.config_type.parse(json.loads(arguments[f"{name}_config"]), name)
        own = next(t for t in template["spec"]["templates"] if t["name"] == name)
        words = own["container"]["command"]
        given = {w.partition("=")[0] for before, w in pairwise(words) if before == "--input"}
        assert given == set(stage.inputs)
        declared = {p["name"] for p in own["inputs"]["parameters"]}
        assert declared == {"config", "run", *stage.inputs}
        assert {a["path"] for a in own["inputs"]["artifacts"]} == {
            words[words.index("--config") + 1],
            words[words.index("--run") + 1],
        }
        written = own["outputs"]["parameters"][0]["valueFrom"]["path"]
        assert written == words[words.index("--output") + 1]
        # The root file system is read-only; files that go in are mounted where no volume is.
        volumes = [f"{mount['mountPath']}/" for mount in own["container"]["volumeMounts"]]
        assert any(written.startswith(volume) for volume in volumes)
        for artifact in own["inputs"]["artifacts"]:
            assert not any(artifact["path"].startswith(volume) for volume in volumes)
    RunInfo.model_validate_json(arguments["run"])


def test_argo_has_no_secret_in_it(template):
    for own in template["spec"]["templates"]:
        for variable in own.get("container", {}).get("env", []):
            if variable["name"].startswith("AWS_"):
                assert "value" not in variable
            if variable["name"] in names.S3_SECRET_KEYS:
                assert variable["valueFrom"]["secretKeyRef"]["name"] == "fpnas-s3"


@pytest.mark.parametrize(
    ("path", "misspelt"),
    [
        (("spec",), "serviceAcountName"),
        (("spec", "templates", 1), "retryStrategi"),
        (("spec", "templates", 1, "container"), "imagePolicy"),
        (("spec", "templates", 1, "retryStrategy", "backoff"), "durations"),
    ],
)
def test_a_misspelt_field_of_argo_is_caught(template, path, misspelt):
    spoilt = json.loads(json.dumps(template))
    place = spoilt
    for key in path:
        place = place[key]
    place[misspelt] = "x"
    with pytest.raises(ValueError, match=misspelt):
        checked(spoilt)
    assert checked(template) == template


def test_pictures_of_this_machine_are_refused(tmp_path):
    plan = make_plan(Request(data=str(tmp_path)))
    for engine in ("kfp", "argo"):
        with pytest.raises(InputError, match="no pod of a cluster can read it"):
            compile_pipeline(plan, tmp_path / "p.yaml", engine)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "no-such-folder"}, "DATA=no-such-folder is nothing that a pod"),
        ({"data": "digitz"}, "did you mean digits"),
        ({"data": "~/pics"}, "DATA=~/pics is nothing that a pod .* give s3://bucket/prefix"),
        ({"data": "~"}, "DATA=~ is on this machine"),
        ({"data": "gs://bucket/pics"}, "DATA=gs://bucket/pics is nothing that a pod"),
        ({"overrides": ("prepare.data=/",)}, "DATA=/ is on this machine"),
        (
            {"overrides": ("distill.teacher=local:/models/t.safetensors",)},
            "distill.teacher=local:/models/t.safetensors is on this machine.* mlflow:NAME@ALIAS",
        ),
        (
            {"overrides": ("distill.teacher_classes=/models/classes.json",)},
            "distill.teacher_classes=/models/classes.json is on this machine.* Fix: leave it out",
        ),
    ],
)
def test_what_no_pod_can_read_is_refused(tmp_path, changes, words):
    plan = make_plan(Request(**changes))
    for engine in ("kfp", "argo"):
        with pytest.raises(InputError, match=words):
            compile_pipeline(plan, tmp_path / "p.yaml", engine)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", ["s3://bucket/pics", "cifar10"])
def test_what_a_pod_can_read_is_compiled(tmp_path, data):
    teacher = ("distill.teacher=mlflow:fp-nas-t0@champion",)
    compile_pipeline(make_plan(Request(data=data, overrides=teacher)), tmp_path / "p.yaml", "argo")
    assert data in (tmp_path / "p.yaml").read_text()


def test_another_engine_is_refused(plan, tmp_path):
    with pytest.raises(InputError, match="kfp, argo"):
        compile_pipeline(plan, tmp_path / "p.yaml", "kubeflow")
