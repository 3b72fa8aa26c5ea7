"""Spaces: what the paper prints about them, and how a wrong file is refused."""

import copy
import math

import pytest
import yaml

from fpnas.cost import CostModel
from fpnas.errors import InputError
from fpnas.space import (
    CHANNELS,
    EXPANSION,
    KERNEL,
    VARIABLES,
    available_spaces,
    load_space,
    parse_space,
)

SMALL = {
    "name": "small",
    "description": "two groups",
    "choices": {"kernel": [0, 3], "activation": ["relu"], "splits": [0, 1]},
    "stem": {"channels": 8, "stride": 2},
    "groups": [
        {"expansion": [1.5, 3, 1.5], "channels": [8, 16, 4], "repeat": 2, "stride": 2},
        {"expansion": 2, "channels": 24, "repeat": 1, "stride": 1, "kernel": [5]},
    ],
    "head": {"channels": 32},
    "models": {
        "a": {"input_size": 16, "target_macs": 1000},
        "b": {"input_size": 32, "target_macs": 2000, "repeats": [0, 3]},
    },
}


def changed(path, value):
    """SMALL with one value replaced, added or, for None, removed."""
    data = copy.deepcopy(SMALL)
    *parents, last = path.split(".")
    node = data
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node[part]
    if value is None:
        del node[last]
    else:
        node[int(last) if isinstance(node, list) else last] = value
    return data


def test_fbnetv2_f_is_the_printed_table():
    space = load_space("fbnetv2_f").open()
    # (expansions, channels) x kernels 3 x nonlinearities 2 x squeeze-excite 2, row by row.
    rows = [(1, 2), (6, 3), (6, 3), (6, 4), (6, 4), (6, 5), (6, 5), (6, 6), (6, 10), (6, 10)]
    assert space.size == math.prod(e * c * 12 for e, c in rows)
    assert float(f"{space.size:.4e}") == 2.6956e24
    assert space.uniform_entropy_nats == pytest.approx(math.log(space.size), abs=1e-9)
    assert round(space.uniform_entropy_nats, 2) == 56.25
    assert (space.num_factorized_parameters, space.num_joint_parameters) == (176, 3624)
    assert (space.num_blocks, space.num_groups, space.total_stride) == (17, 10, 32)
    assert (space.stem_channels, space.stem_stride, space.head_channels) == (16, 2, 1984)
    assert [g.repeat for g in space.groups] == [1, 1, 2, 1, 2, 1, 2, 3, 1, 3]
    assert [g.stride for g in space.groups] == [1, 2, 1, 2, 1, 2, 1, 1, 2, 1]
    assert space.groups[1].choices[EXPANSION].values == (0.75, 1.5, 2.25, 3.0, 3.75, 4.5)
    assert space.groups[-1].choices[CHANNELS].values == tuple(range(112, 185, 8))


def test_sizes_of_the_other_spaces():
    plus = load_space("sa_f").open()
    assert (plus.num_factorized_parameters, plus.num_joint_parameters) == (196, 7248)
    assert plus.size == 2**10 * load_space("fbnetv2_f").open().size
    fine = load_space("fbnetv2_f_fine").open()
    assert fine.num_groups == fine.num_blocks == 17
    assert 1e44 <= fine.size <= 1e46


@pytest.mark.parametrize(
    ("model", "input_size", "num_blocks", "size", "median_macs"),
    [
        ("l0", 224, 27, 2e32, 0.39e9),
        ("l1", 240, 32, 1e36, 0.9e9),
        ("l2", 256, 32, 1e36, 1.1e9),
    ],
)
def test_the_expanded_space_meets_what_is_printed(model, input_size, num_blocks, size, median_macs):
    space = load_space("sa_expanded").open(model)
    assert (space.input_size, space.num_blocks, space.total_stride) == (input_size, num_blocks, 32)
    assert size / 10 <= space.size <= size * 10
    median = CostModel(space, 1000).median_macs(num_samples=100_000)
    assert median == pytest.approx(median_macs, rel=0.05)


@pytest.mark.parametrize(
    ("input_size", "median", "largest"),
    [(128, 34, 107), (160, 52, 166), (192, 72, 237), (224, 99, 321), (256, 128, 418)],
)
def test_costs_of_fbnetv2_f(input_size, median, largest):
    costs = CostModel(load_space("fbnetv2_f").open(input_size=input_size), 1000)
    assert costs.median_macs() == pytest.approx(median * 1e6, rel=0.05)
    assert round(costs.range_macs()[1] / 1e6) == largest


@pytest.mark.parametrize(
    ("name", "input_sizes"),
    [
        ("fbnetv2_f", {"s1": 128, "s2": 160, "s3": 192, "s4": 256}),
        ("fbnetv2_f_fine", {"s1": 128, "s2": 160, "s3": 192, "s4": 256}),
        ("sa_f", {"s1pp": 128, "s2pp": 160, "s3pp": 192, "s4pp": 256}),
        ("sa_expanded", {"l0": 224, "l1": 240, "l2": 256}),
        ("tiny", {"t0": 32, "t1": 64}),
    ],
)
def test_operating_points(name, input_sizes):
    file = load_space(name)
    assert {model: file.open(model).input_size for model in file.models} == input_sizes
    for model in file.models:
        space = file.open(model)
        low, high = CostModel(space, 1000).range_macs()
        assert low < space.target_macs < high


def test_every_file_bears_its_name_and_is_tested():
    assert set(available_spaces()) == {"fbnetv2_f", "fbnetv2_f_fine", "sa_f", "sa_expanded", "tiny"}
    for name in available_spaces():
        assert load_space(name).name == name


def test_groups_of_a_small_space():
    space = parse_space(SMALL, "here").open("a")
    first, second = space.groups
    assert tuple(choice.name for choice in first.choices) == VARIABLES
    assert [c.values for c in first.choices] == [
        (1.5, 3.0),
        (8, 12, 16),
        (0, 3),
        ("relu",),
        (0, 1),
    ]
    assert second.choices[KERNEL].values == (5,)
    assert (first.size, second.size, space.size) == (24, 2, 48)
    assert (space.num_factorized_parameters, space.num_joint_parameters) == (11, 26)
    assert (space.num_blocks, space.total_stride) == (3, 4)


def test_an_absent_group_hands_its_stride_to_the_next():
    space = parse_space(SMALL, "here").open("b")
    assert [(g.repeat, g.stride, g.size) for g in space.groups] == [(3, 2, 2)]


def test_block_granularity_gives_every_block_its_own_choice():
    space = parse_space(changed("granularity", "block"), "here").open("a")
    assert [(g.repeat, g.stride) for g in space.groups] == [(1, 2), (1, 1), (1, 1)]
    assert space.size == 24 * 24 * 2


def test_overrides():
    file = parse_space(SMALL, "here")
    assert (file.open().model, file.default_model) == ("a", "a")
    space = file.open("a", input_size=20, target_macs=7)
    assert (space.input_size, space.target_macs) == (20, 7)


@pytest.mark.parametrize(
    ("path", "value", "field", "problem", "fix"),
    [
        ("groups.0.repeats", 2, "groups.0.repeats", "Extra inputs", "did you mean repeat"),
        ("inptu", 1, "inptu", "Extra inputs", "remove the key"),
        ("groups.0.channels", [8, 17, 4], "groups.0.channels", "step that does not fit", "range"),
        ("groups.1.expansion", [1, 2], "groups.1.expansion", "is not [min, max, step]", "range"),
        ("groups.0.channels", [16, 8, 4], "groups.0.channels", "min <= max", "range"),
        ("groups.0.channels", [8, 16, 0], "groups.0.channels", "step > 0", "range"),
        ("groups.0.channels", [8, 9, 0.5], "groups.0.channels", "whole numbers", "range"),
        ("groups.1.channels", 24.5, "groups.1.channels", "whole numbers", "range"),
        ("groups.1.expansion", 0, "groups.1.expansion", "must be positive", "range"),
        ("choices.kernel", [], "choices.kernel", "at least 1 item", "at least one value"),
        ("groups.1.kernel", [], "groups.1.kernel", "at least 1 item", "at least one value"),
        ("choices.kernel", [3, 7], "choices.kernel.1", "should be 0, 3 or 5", "correct"),
        ("choices.activation", ["gelu"], "choices.activation.0", "'relu' or 'swish'", "correct"),
        ("groups.0.stride", 3, "groups.0.stride", "should be 1 or 2", "correct"),
        ("head", None, "head", "Field required", "add the key"),
        ("models", {}, "models", "at least 1 item", "at least one value"),
        ("models.b.repeats", [1], "models.b.repeats", "1 entries in here for 2", "each group"),
        ("models.b.repeats", [0, 0], "models.b.repeats", "leaves no block", "raise one"),
        ("models.b.repeats", [2, -1], "models.b.repeats", "leaves no block", "raise one"),
        ("models.a.input_size", 0, "models.a.input_size", "greater than or equal", "correct"),
    ],
)
def test_a_wrong_file_is_refused_by_field_value_and_fix(path, value, field, problem, fix):
    with pytest.raises(InputError) as caught:
        parse_space(changed(path, value), "here")
    error = caught.value
    assert error.field == field
    assert problem in error.problem
    assert "here" in str(error)
    assert fix in error.fix
    assert f"{field}={error.value}" in str(error)


@pytest.mark.parametrize("data", [None, [], "text"])
def test_a_file_that_is_no_mapping(data):
    with pytest.raises(InputError, match="is not a mapping"):
        parse_space(data, "here")


def test_an_input_smaller_than_the_strides():
    file = parse_space(SMALL, "here")
    assert file.open(input_size=4).input_size == 4
    with pytest.raises(InputError, match="too small for the strides of small") as caught:
        file.open(input_size=3)
    assert (caught.value.field, caught.value.value) == ("input_size", 3)
    assert caught.value.legal == "at least 4"


def test_unknown_names_are_answered_with_the_closest():
    with pytest.raises(InputError) as caught:
        load_space("fbnetv2-f")
    assert (caught.value.field, caught.value.value) == ("SPACE", "fbnetv2-f")
    assert "did you mean fbnetv2_f" in caught.value.fix
    assert "tiny" in caught.value.legal
    with pytest.raises(InputError) as caught:
        load_space("sa_expanded").open("L0")
    assert (caught.value.field, caught.value.value) == ("MODEL", "L0")
    assert caught.value.legal == "l0, l1, l2"


def test_a_users_own_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    assert load_space(str(path)) == parse_space(SMALL, "here")
    path.write_text("name: [")
    with pytest.raises(InputError, match="is not valid YAML"):
        load_space(str(path))
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="is not valid YAML"):
        load_space(str(path))
    with pytest.raises(InputError, match="does not exist"):
        load_space(str(tmp_path / "absent.yml"))


def test_an_override_of_zero_is_not_ignored():
    with pytest.raises(InputError, match="input_size=0"):
        parse_space(SMALL, "here").open(input_size=0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", math.inf),
        ("channels", [8, math.inf, 4]),
        ("expansion", math.nan),
    ],
)
def test_numbers_that_are_not_finite_are_refused(field, value):
    with pytest.raises(InputError) as caught:
        parse_space(changed(f"groups.0.{field}", value), "here")
    assert caught.value.field == f"groups.0.{field}"


def test_a_repeated_choice_is_refused():
    for field in ("choices.kernel", "groups.1.kernel"):
        with pytest.raises(InputError, match="twice") as caught:
            parse_space(changed(field, [3, 3]), "here")
        assert caught.value.field == field
