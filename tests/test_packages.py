"""Packages that are missing are named, with the extra that brings them."""

import pytest

from fpnas.errors import InputError
from fpnas.packages import EXPORT_PACKAGES, require


def test_what_is_installed_passes():
    require(*EXPORT_PACKAGES)


def test_a_missing_package_is_named():
    with pytest.raises(InputError, match=r"no_such_package is not installed.*fpnas\[export\]"):
        require("json", "no_such_package")
