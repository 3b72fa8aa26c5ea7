"""One pipeline: what the local engine runs, the IR and the table of stages are the same DAG."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fpnas.stages.base import ALL_STAGES, BASELINE_STAGES, STAGES
from pipelines.baseline import plan_baseline
from pipelines.compile import compile_pipeline
from pipelines.plan import Request, make_plan

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("ir") / "pipeline.yaml"
    plan = make_plan(Request(space="sa_expanded", model="l1", profile="paper"), {})
    compile_pipeline(plan, path)
    return plan, path


def edges_of(specification: dict) -> dict[str, dict[str, str]]:
    """For every task the task that each of its input artifacts comes from."""
    tasks = specification["root"]["dag"]["tasks"]
    return {
        name: {
            role: source["taskOutputArtifact"]["producerTask"]
            for role, source in task["inputs"].get("artifacts", {}).items()
        }
        for name, task in tasks.items()
    }


def test_the_ir_has_the_edges_of_the_table_of_stages(compiled):
    _, path = compiled
    edges = edges_of(next(yaml.safe_load_all(path.read_text())))
    assert {name: set(sources) for name, sources in edges.items()} == {
        name: set(stage.inputs) for name, stage in STAGES.items()
    }


def test_the_local_engine_runs_the_very_pipeline_that_is_compiled(compiled):
    from pipelines.definition import fpnas_pipeline

    _, path = compiled
    specification = next(yaml.safe_load_all(path.read_text()))
    spec = json.loads(
        __import__("google.protobuf.json_format", fromlist=["x"]).MessageToJson(
            fpnas_pipeline.pipeline_spec
        )
    )
    assert edges_of(spec) == edges_of(specification)
    assert spec["components"] == specification["components"]


def test_a_baseline_is_compiled_from_its_own_pipeline(tmp_path):
    path = tmp_path / "baseline.yaml"
    plan = plan_baseline("mobilenet_v2@0.5", Request(profile="laptop"))
    compile_pipeline(plan, path)
    specification = next(yaml.safe_load_all(path.read_text()))
    edges = edges_of(specification)
    assert edges == {"prepare": {}, "baseline": {"dataset": "prepare"}}
    assert set(edges) == set(BASELINE_STAGES)
    parameters = specification["root"]["inputDefinitions"]["parameters"]
    defaults = {name: value["defaultValue"] for name, value in parameters.items()}
    assert defaults == plan.parameters()
    assert json.loads(defaults["baseline_config"])["name"] == "mobilenet_v2@0.5"


def test_the_ir_has_the_plan_as_its_defaults(compiled):
    plan, path = compiled
    specification = next(yaml.safe_load_all(path.read_text()))
    parameters = specification["root"]["inputDefinitions"]["parameters"]
    defaults = {name: value["defaultValue"] for name, value in parameters.items()}
    assert defaults == plan.parameters()
    coarse = json.loads(defaults["coarse_config"])
    assert coarse["space"]["model"] == "l1"
    assert coarse["space"]["input_size"] == 240


def test_components_install_nothing_and_name_an_image(compiled):
    _, path = compiled
    text = path.read_text()
    assert "pip install" not in text
    executors = next(yaml.safe_load_all(text))["deploymentSpec"]["executors"]
    images = {name: executor["container"]["image"] for name, executor in executors.items()}
    assert len(images) == len(STAGES)
    assert all(image.startswith("fpnas-") for image in images.values())


def test_metadata_and_readme_of_every_component_agree_with_the_stage():
    folder = Path(__file__).parents[2] / "components"
    for name, stage in ALL_STAGES.items():
        metadata = yaml.safe_load((folder / name / "metadata.yaml").read_text())
        assert metadata["name"] == name
        assert metadata["inputs"] == list(stage.inputs)
        readme = (folder / name / "README.md").read_text()
        assert all(f"`{role}`" in readme for role in stage.inputs)
