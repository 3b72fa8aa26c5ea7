"""Packages that are missing are named, with the extra that brings them."""

import pytest

from fpnas.errors import InputError
from fpnas.packages import EXPORT_PACKAGES, require, require_compiler


def test_what_is_installed_passes():
    require(*EXPORT_PACKAGES)


def test_a_missing_package_is_named():
    with pytest.raises(InputError, match=r"no_such_package is not installed.*fpnas\[export\]"):
        require("json", "no_such_package")


def test_compiling_needs_a_compiler(tmp_path):
    with pytest.raises(InputError, match=r"recipe.compile=True needs a C\+\+ compiler, and g\+\+"):
        require_compiler({"PATH": str(tmp_path)})
    with pytest.raises(InputError, match="and own-compiler is not installed"):
        require_compiler({"PATH": str(tmp_path), "CXX": "own-compiler"})
    (tmp_path / "own-compiler").touch(mode=0o755)
    require_compiler({"PATH": str(tmp_path), "CXX": "own-compiler"})
