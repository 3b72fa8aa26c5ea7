"""Search options: the ranges that they are held to."""

import math

import pytest

from fpnas.errors import InputError
from fpnas.search.options import SearchOptions


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_steps", 0),
        ("warmup_steps", -1),
        ("warmup_samples", 0),
        ("sampling_rate", -0.1),
        ("min_samples", 0),
        ("cost_weight", -1),
        ("learning_rate", math.nan),
        ("architecture_learning_rate", -1e-3),
        ("converged_entropy_nats", -1),
        ("snapshot_steps", 0),
        ("ess_fraction", 0.0),
        ("ess_fraction", 1.1),
        ("ess_fraction", math.nan),
        ("temperature", 0.0),
        ("temperature", math.nan),
    ],
)
def test_values_outside_their_range_are_refused_by_name(field, value):
    with pytest.raises(InputError) as caught:
        SearchOptions(**{"num_steps": 1, field: value})
    assert caught.value.field == field
    assert caught.value.fix


def test_the_ends_of_the_ranges_are_allowed():
    options = SearchOptions(
        num_steps=1,
        sampling_rate=0,
        min_samples=1,
        cost_weight=0,
        learning_rate=0,
        ess_fraction=1.0,
        temperature=0.01,
    )
    assert options.ess_fraction == 1.0
    assert SearchOptions(num_steps=1).sampling_rate == 1 / 4  # the paper's default
