"""Imports go one way, and light modules stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the outside in. A module may import its own row and the rows below it; where a name stands
# twice, the longest one counts: the options of a search are plain data, so the method may use them.
LAYERS = (
    ("fpnas.cli",),
    ("pipelines",),
    ("components",),
    ("fpnas.stages", "fpnas.doctor"),
    ("fpnas.registry", "fpnas.timm_models"),
    ("fpnas.tracking", "fpnas.mlflow_pages", "fpnas.services"),
    ("fpnas.search", "fpnas.training", "fpnas.data", "fpnas.report", "fpnas.storage"),
    (
        "fpnas.space",
        "fpnas.distribution",
        "fpnas.cost",
        "fpnas.networks",
        "fpnas.architecture",
        "fpnas.estimator",
        "fpnas.state",
        "fpnas.parallel",
    ),
    ("fpnas.search.options", "fpnas.training.recipe"),
    ("fpnas.packages",),
    ("fpnas.errors", "fpnas.canonical", "fpnas.code_version", "fpnas.memory", "fpnas.__version__"),
)
METHOD = (
    "fpnas.space",
    "fpnas.architecture",
    "fpnas.distribution",
    "fpnas.cost",
    "fpnas.estimator",
    "fpnas.state",
    "fpnas.parallel",
    "fpnas.networks",
    "fpnas.search",
)
# Who may not import what, wherever the two stand in the table.
FORBIDDEN = {
    **dict.fromkeys(
        METHOD,
        (
            *("kfp", "boto3", "botocore", "mlflow"),
            *("fpnas.stages", "fpnas.storage", "fpnas.tracking", "fpnas.registry", "fpnas.data"),
        ),
    ),
    "fpnas.data": ("fpnas.storage", "fpnas.stages", "fpnas.tracking", "kfp", "mlflow"),
    "fpnas.training": ("fpnas.storage", "fpnas.tracking", "kfp", "boto3", "mlflow"),
    "fpnas.report": ("fpnas.storage", "fpnas.tracking", "kfp", "boto3", "mlflow"),
    "fpnas.storage": ("fpnas.data", "fpnas.search", "fpnas.training", "fpnas.report"),
}


def within(module, name):
    return module == name or module.startswith(f"{name}.")


def part_of(module):
    """The name of the table that a module belongs to, or None; the longest name counts."""
    names = [name for row in LAYERS for name in row if within(module, name)]
    return max(names, key=len, default=None)


def rank(part):
    """0 is the innermost row."""
    return next(len(LAYERS) - i for i, row in enumerate(LAYERS) if part in row)


def imports_of(module, source, is_package=False):
    """Everything that a module imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = module.split(".")[: None if is_package else -1]
                up = up[: len(up) - (node.level - 1)]
                base = ".".join([*up, *([base] if base else [])])
            # `from a import b` may import the module a.b.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(module, source, is_package=False):
    own = part_of(module)
    for target in imports_of(module, source, is_package):
        for name, forbidden in FORBIDDEN.items():
            if within(module, name):
                yield from (f"{module} imports {t}" for t in forbidden if within(target, t))
        if target == "fpnas" or target.split(".")[0] not in ("fpnas", "components", "pipelines"):
            continue  # the package itself holds its version and nothing else
        part = part_of(target)
        if own is None or part is None:
            yield f"{module} imports {target}, one of which is in no layer"
        elif rank(part) > rank(own):
            yield f"{module} ({own}) imports {target} from the layer of {part}"


def sources():
    for folder in ("fpnas", "components", "pipelines"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            yield ".".join(parts[:-1] if is_package else parts), path.read_text(), is_package


def test_imports_go_one_way():
    modules = list(sources())
    assert len(modules) > 60
    assert [v for module in modules for v in violations(*module)] == []


def test_every_module_is_in_a_layer():
    assert [name for name, _, _ in sources() if part_of(name) is None] == ["fpnas"]
    names = {name for name, _, _ in sources()}
    absent = [part for row in LAYERS for part in row if part not in names]
    assert absent == ["fpnas.__version__"]


def test_parts_do_not_import_each_other():
    edges = {
        (part_of(module), part_of(target))
        for module, source, is_package in sources()
        for target in imports_of(module, source, is_package)
        if part_of(module) and part_of(target) and part_of(module) != part_of(target)
    }
    assert len(edges) > 30
    # Take away what imports nothing that is left, until nothing can be taken.
    waiting = {part for edge in edges for part in edge}
    while leaves := {p for p in waiting if not any(a == p and b in waiting for a, b in edges)}:
        waiting -= leaves
    assert waiting == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fpnas.space", "import kfp"),
        ("fpnas.space", "from fpnas.search.loop import run_search"),
        ("fpnas.networks.supernet", "def f():\n    from fpnas.data import Dataset"),
        ("fpnas.networks.supernet", "from ..stages import base"),
        ("fpnas.search.loop", "from mlflow.tracking import MlflowClient"),
        ("fpnas.search.loop", "if TYPE_CHECKING:\n    from fpnas.storage import Store"),
        ("fpnas.data.loader", "from fpnas.storage.store import Store"),
        ("fpnas.data.loader", "from fpnas import stages"),
        ("fpnas.training.loop", "import fpnas.stages.train"),
        ("fpnas.stages.base", "from components.images import image"),
        ("fpnas.stages.base", "import pipelines"),
        ("components.fine.component", "from pipelines.plan import Plan"),
        ("pipelines.run", "from fpnas import cli"),
        ("fpnas.errors", "from fpnas.space import load_space"),
        ("fpnas.space", "from fpnas import unheard_of"),
    ],
)
def test_a_violation_would_be_caught(module, source):
    assert list(violations(module, source)) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("fpnas.cli", "from pipelines.run import run"),
        ("pipelines.run", "from fpnas.stages import base"),
        ("fpnas.stages.base", "from fpnas.storage import Store\nimport boto3, torch"),
        ("fpnas.search.loop", "from fpnas.networks.supernet import Supernet\nimport torch"),
        ("fpnas.networks.supernet", "from . import network\nfrom ..space import SearchSpace"),
    ],
)
def test_what_is_allowed_passes(module, source):
    assert list(violations(module, source)) == []


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        ("fpnas.stages.base, fpnas.storage", ("torch", "mlflow")),
        ("fpnas.search.options, fpnas.training.recipe, fpnas.space", ("torch", "mlflow", "boto3")),
        ("fpnas.networks.network", ("mlflow", "boto3", "kfp", "pandas")),
    ],
)
def test_light_modules_do_not_load_heavy_ones(modules, heavy):
    code = f"import sys, {modules}; print(*(n for n in {heavy!r} if n in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
