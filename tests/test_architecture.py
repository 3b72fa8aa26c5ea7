"""Architectures: as JSON, as a line of text, and block by block."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpnas.architecture import (
    Architecture,
    GroupSpec,
    architecture_at,
    mid_channels,
    parse_architecture,
)
from fpnas.errors import InputError
from fpnas.space import load_space

PLAIN = GroupSpec(1.0, 16, 3, "relu", 0, repeat=1, stride=1)
WIDE = GroupSpec(4.5, 24, 5, "swish", 2, repeat=2, stride=2)
SKIP = GroupSpec(0.75, 24, 0, "relu", 1, repeat=3, stride=1)
BYPASS = GroupSpec(0.75, 32, 0, "swish", 4, repeat=2, stride=2)
EXAMPLE = Architecture("mine", "m", 64, 16, 2, (PLAIN, WIDE, SKIP, BYPASS), 128)


def test_the_string_grammar():
    assert str(EXAMPLE) == "c16s2-e1c16k3r-2xe4.5c24k5sa2d2-3xskipc24-2xskipc32d2-c128@64"
    one = replace(EXAMPLE, groups=(replace(WIDE, repeat=1, stride=1, splits=0),), stem_stride=1)
    assert str(one) == "c16s1-e4.5c24k5s-c128@64"


def test_blocks():
    blocks = EXAMPLE.blocks()
    table = [
        (b.in_channels, b.mid_channels, b.out_channels, b.stride, b.expand, b.has_residual)
        for b in blocks
    ]
    assert table == [
        (16, 16, 16, 1, False, True),
        (16, 72, 24, 2, True, False),
        (24, 112, 24, 1, True, True),
        (24, 0, 24, 1, False, False),
        (24, 0, 24, 1, False, False),
        (24, 0, 24, 1, False, False),
        (24, 0, 32, 2, False, False),
        (32, 0, 32, 1, False, False),
    ]
    assert [b.is_identity for b in blocks] == [False] * 3 + [True] * 3 + [False, True]
    assert [(b.kernel, b.activation, b.splits) for b in blocks[:2]] == [
        (3, "relu", 0),
        (5, "swish", 2),
    ]
    assert EXAMPLE.num_layers == 3


@pytest.mark.parametrize(
    ("channels", "expansion", "mid"),
    [
        (16, 0.75, 16),  # 12 is half-way: up
        (20, 1.0, 24),  # half-way again
        (19, 1.0, 16),
        (16, 4.5, 72),
        (24, 0.75, 16),  # 18
        (40, 2.25, 88),  # 90 is nearer to 88
        (4, 0.25, 8),  # never below 8
        (184, 4.5, 832),  # 828 is half-way between 824 and 832
    ],
)
def test_mid_channels(channels, expansion, mid):
    assert mid_channels(channels, expansion) == mid
    np.testing.assert_array_equal(mid_channels(np.array([channels]), np.array([expansion])), [mid])


@given(st.integers(1, 2000), st.floats(0.1, 8))
def test_mid_channels_is_a_near_multiple_of_eight(channels, expansion):
    mid = mid_channels(channels, expansion)
    assert mid % 8 == 0
    assert mid >= 8
    assert abs(mid - channels * expansion) <= 4 or mid == 8


@given(st.data())
def test_json_round_trip_and_digest(data):
    space = load_space("tiny").open()
    points = st.tuples(
        *(st.tuples(*(st.integers(0, len(c) - 1) for c in g.choices)) for g in space.groups)
    )
    first, second = data.draw(points), data.draw(points)
    a, b = architecture_at(space, first), architecture_at(space, second)
    text = json.dumps(a.to_json())
    again = Architecture.from_json(json.loads(text))
    assert again == a
    assert again.sha256 == a.sha256
    assert (a.sha256 == b.sha256) == (first == second)
    # Independent of the order of keys.
    reordered = dict(sorted(json.loads(text).items(), reverse=True))
    assert Architecture.from_json(reordered).sha256 == a.sha256


def test_the_digest_is_that_of_canonical_json():
    text = json.dumps(EXAMPLE.to_json(), sort_keys=True, separators=(",", ":"))
    assert EXAMPLE.sha256 == hashlib.sha256(text.encode()).hexdigest()
    for other in (replace(EXAMPLE, input_size=65), replace(EXAMPLE, groups=EXAMPLE.groups[::-1])):
        assert other.sha256 != EXAMPLE.sha256


def test_architecture_at_takes_the_values_at_the_indices():
    space = load_space("tiny").open("t1")
    choices = [[0, 1, 2, 1, 3]] + [[2, 1, 0, 0, 2]] * 4
    architecture = architecture_at(space, choices)
    assert architecture.groups[0] == GroupSpec(1.0, 16, 5, "swish", 4, repeat=1, stride=1)
    assert architecture.groups[2] == GroupSpec(4.5, 40, 0, "relu", 2, repeat=2, stride=2)
    assert (architecture.model, architecture.input_size) == ("t1", 64)
    assert (architecture.stem_channels, architecture.head_channels) == (16, 256)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"schema_version": None}, "schema_version"),
        ({"colour": "red"}, "architecture"),
        ({"groups": [{"expansion": 1}]}, "architecture"),
        ({"groups": 3}, "architecture"),
    ],
)
def test_other_json_is_refused(change, field):
    with pytest.raises(InputError) as caught:
        Architecture.from_json({**EXAMPLE.to_json(), **change})
    assert caught.value.field == field
    with pytest.raises(InputError, match="head_channels"):
        Architecture.from_json({k: v for k, v in EXAMPLE.to_json().items() if k != "head_channels"})


@given(st.data())
def test_a_line_is_read_as_what_computes_the_same(data):
    space = load_space("tiny").open()
    choices = [
        [data.draw(st.integers(0, len(c) - 1)) for c in group.choices] for group in space.groups
    ]
    architecture = architecture_at(space, choices)
    again = parse_architecture(str(architecture), space=space.name, model=space.model)
    assert str(again) == str(architecture)
    assert again.blocks() == architecture.blocks()
    assert again.input_size == architecture.input_size
    if all(group.kernel for group in architecture.groups):
        assert again == architecture


@pytest.mark.parametrize(
    "line",
    [
        "",
        "c16s2",
        "c16s2-c128@64",
        "c16s2-e1c16k3r",
        "c16s2-e1c16k3r-c128",
        "c16-e1c16k3r-c128@64",
        "c16s2-e1c16-c128@64",
        "c16s2-skipc16k3r-c128@64",
        "c16s2-e1c16k3t-c128@64",
        "c16s2-e1c16k3r--c128@64",
        "c16s2-e1c16k3r-c128@64 ",
    ],
)
def test_a_line_that_is_none_is_refused(line):
    with pytest.raises(InputError, match="is not an architecture in one line"):
        parse_architecture(line)
