import pytest

from fpnas.code_version import code_version

FILES = {
    "fpnas/__init__.py": "",
    "fpnas/stage.py": (
        '"""Doc."""\nfrom fpnas.deep import middle\n\n'
        'def run():\n    """Doc."""\n    return middle.value()\n'
    ),
    "fpnas/deep/__init__.py": "",
    "fpnas/deep/middle.py": (
        "from .leaf import LIMIT\n\n"
        "def value():\n    from ..lazy import ANSWER\n    return LIMIT + ANSWER\n"
    ),
    "fpnas/deep/leaf.py": "import os\nLIMIT = 1\n",
    "fpnas/lazy.py": "import fpnas.stage\nANSWER = 42\n",  # a cycle
    "fpnas/unrelated.py": "X = 1\n",
}


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def changed(root, name, old, new):
    before = code_version("fpnas.stage", root)
    path = root / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    return code_version("fpnas.stage", root) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("fpnas/stage.py", '"""Doc."""', '"""Other words."""'),
        ("fpnas/stage.py", '    """Doc."""\n', "    # a comment\n\n"),
        ("fpnas/deep/leaf.py", "LIMIT = 1", "LIMIT  =  (1)  # one"),
        ("fpnas/unrelated.py", "X = 1", "X = 2"),
    ],
)
def test_words_and_other_modules_do_not_count(root, name, old, new):
    assert not changed(root, name, old, new)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("fpnas/stage.py", "middle.value()", "middle.value"),
        ("fpnas/deep/leaf.py", "LIMIT = 1", "LIMIT = 2"),  # by a relative import
        ("fpnas/lazy.py", "42", "43"),  # by an import in a function
        ("fpnas/deep/middle.py", "from .leaf import LIMIT", "LIMIT = 1"),
    ],
)
def test_code_that_is_reached_counts(root, name, old, new):
    assert changed(root, name, old, new)


def test_package_initialisers_count(root):
    before = code_version("fpnas.stage", root)
    (root / "fpnas/deep/__init__.py").write_text("import fpnas.unrelated\n")
    after = code_version("fpnas.stage", root)
    assert after != before
    assert changed(root, "fpnas/unrelated.py", "X = 1", "X = 2")


def test_unknown_module_is_an_error(root):
    with pytest.raises(ModuleNotFoundError, match="nothing"):
        code_version("fpnas.nothing", root)


def test_the_package_itself():
    assert len(code_version("fpnas.storage")) == 64
    assert code_version("fpnas.storage") != code_version("fpnas.errors")
