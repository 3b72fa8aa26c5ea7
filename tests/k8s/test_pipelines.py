"""The check of compiled pipelines finds what the formats would drop without a word."""

from __future__ import annotations

import copy

import pytest
import yaml

from pipelines.compile import compile_pipeline
from validation.pipelines import CASES, check_argo, check_ir

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    for engine in ("kfp", "argo"):
        compile_pipeline(CASES[0].plan(), folder / f"{engine}.yaml", engine)
    return (folder / "kfp.yaml").read_text(), yaml.safe_load((folder / "argo.yaml").read_text())


def test_what_is_compiled_has_no_problem(compiled):
    assert check_ir("kfp", compiled[0]) == []
    assert check_argo("argo", compiled[1]) == []


def test_every_profile_and_every_space_is_among_the_cases():
    from fpnas.space import available_spaces
    from pipelines.plan import available_profiles

    assert {case.profile for case in CASES} == set(available_profiles())
    assert {case.space for case in CASES} == set(available_spaces())


@pytest.mark.parametrize(
    ("document", "path", "key", "value", "words"),
    [
        (0, ("deploymentSpec", "executors", "exec-train", "container"), "imagine", "x", "imagine"),
        (0, ("root", "dag", "tasks", "train"), "dependant_tasks", [], "dependant_tasks"),
        (1, ("exec-train",), "nodeSelectors", {"labels": {}}, "nodeSelectors"),
        (1, ("exec-train",), "imagePullPolicy", 3, "exec-train"),
    ],
)
def test_a_broken_ir_is_found(compiled, document, path, key, value, words):
    documents = list(yaml.safe_load_all(compiled[0]))
    place = documents[document]
    if document == 1:
        place = place["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name in path:
        place = place[name]
    place[key] = value
    found = check_ir("kfp", yaml.safe_dump_all(documents))
    assert found
    assert words in str(found[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda own: own.update(retryStrategi={}), "retryStrategi"),
        (lambda own: own["container"].update(imagePullPolicies="Always"), "imagePullPolicies"),
        (lambda own: own["volumes"][0].update(emptyDir={"medium": 3}), "medium"),
        (lambda own: own["container"].update(securityContext={"privileged": True}), "privileged"),
        (
            lambda own: own["container"]["securityContext"].pop("readOnlyRootFilesystem"),
            "readOnlyRootFilesystem",
        ),
        (lambda own: own["container"]["resources"].pop("limits"), "limits must give cpu"),
    ],
)
def test_a_broken_template_of_argo_is_found(compiled, change, words):
    template = copy.deepcopy(compiled[1])
    change(next(t for t in template["spec"]["templates"] if t["name"] == "train"))
    found = check_argo("argo", template)
    assert found
    assert words in " ".join(map(str, found))
