"""One pipeline: engines local and docker, the IR, Argo's template and the table have one DAG."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from fpnas.stages.base import ALL_STAGES, BASELINE_STAGES, MAKERS, STAGES
from pipelines.argo import workflow_template
from pipelines.baseline import plan_baseline
from pipelines.compile import compile_pipeline
from pipelines.graph import graph_of, pipeline_graph
from pipelines.plan import Request, make_plan

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    path = tmp_path_factory.mktemp("ir") / "pipeline.yaml"
    plan = make_plan(Request(space="sa_expanded", model="l1", profile="paper"))
    compile_pipeline(plan, path)
    return plan, path


def local_edges(_plan, _path):
    return {name: node.sources for name, node in pipeline_graph().items()}


def docker_edges(_plan, _path):
    """Built as the engine does, with the images that it has checked."""
    from google.protobuf.json_format import MessageToDict

    from pipelines.definition import make_pipeline
    from pipelines.docker import DockerEngine

    engine = DockerEngine({})
    engine._images = {stage: f"sha256:{stage}" for stage in STAGES}
    graph = graph_of(MessageToDict(make_pipeline(engine.place).pipeline_spec))
    assert {name: node.image for name, node in graph.items()} == engine._images
    return {name: node.sources for name, node in graph.items()}


def ir_edges(_plan, path):
    specification = next(yaml.safe_load_all(path.read_text()))
    return {name: node.sources for name, node in graph_of(specification).items()}


def argo_edges(plan, _path):
    """Read from the text alone: what every task takes from which other task."""
    templates = yaml.safe_load(workflow_template(plan))["spec"]["templates"]
    tasks = next(template["dag"]["tasks"] for template in templates if "dag" in template)
    edges = {}
    for task in tasks:
        values = {p["name"]: p["value"] for p in task["arguments"]["parameters"]}
        taken = {role: value.strip("{}").split(".") for role, value in values.items()}
        edges[task["name"]] = {r: words[1] for r, words in taken.items() if words[0] == "tasks"}
        assert set(task.get("dependencies", ())) == set(edges[task["name"]].values())
    return edges


@pytest.mark.parametrize("edges", [local_edges, docker_edges, ir_edges, argo_edges])
def test_every_engine_has_the_edges_of_the_table_of_stages(compiled, edges):
    found = edges(*compiled)
    assert {name: set(sources) for name, sources in found.items()} == {
        name: set(stage.inputs) for name, stage in STAGES.items()
    }
    # An input's kind is what the stage that it comes from makes.
    for name, sources in found.items():
        for role, source in sources.items():
            assert STAGES[source].kind == STAGES[name].inputs[role]
    assert found["register"] == dict(MAKERS)
    assert found == local_edges(*compiled)


def test_the_local_engine_runs_the_components_that_are_compiled(compiled):
    from google.protobuf.json_format import MessageToDict

    from pipelines.definition import fpnas_pipeline

    specification = next(yaml.safe_load_all(compiled[1].read_text()))
    local = MessageToDict(fpnas_pipeline.pipeline_spec)
    assert local["components"] == specification["components"]
    for name, executor in local["deploymentSpec"]["executors"].items():
        other = specification["deploymentSpec"]["executors"][name]["container"]
        assert executor["container"]["command"] == other["command"]
        assert executor["container"]["image"] == other["image"]


def test_a_baseline_is_compiled_from_its_own_pipeline(tmp_path):
    path = tmp_path / "baseline.yaml"
    plan = plan_baseline("mobilenet_v2@0.5", Request(profile="laptop"))
    compile_pipeline(plan, path)
    specification = next(yaml.safe_load_all(path.read_text()))
    edges = ir_edges(plan, path)
    assert edges == argo_edges(plan, path) == {"prepare": {}, "baseline": {"dataset": "prepare"}}
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
