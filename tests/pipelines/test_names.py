"""Names that Kubernetes takes."""

from __future__ import annotations

import re

import pytest

from pipelines.names import run_name

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@pytest.mark.parametrize(
    ("run_id", "name"),
    [
        ("sa_expanded-l2-0a1b2c3d", "fpnas-sa-expanded-l2-0a1b2c3d"),
        ("Mobile.Net--224px-0a1b2c3d", "fpnas-mobile-net--224px-0a1b2c3d"),
    ],
)
def test_a_short_name_stays_readable(run_id, name):
    assert run_name(run_id) == name


@pytest.mark.parametrize("length", [*range(38, 50), 80, 300])
def test_a_long_name_is_a_label_and_keeps_its_digest(length):
    space = ("space_" * 50)[:length]
    names = {run_name(f"{space}-l2-{digest}") for digest in ("0a1b2c3d", "4e5f6071")}
    assert len(names) == 2
    for name in names:
        assert LABEL.fullmatch(name)
        assert name.endswith(("-0a1b2c3d", "-4e5f6071"))
