"""Recipes: the learning rate over time, and the ranges of every field."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fpnas.errors import InputError
from fpnas.training.recipe import Recipe


def test_the_learning_rate_rises_and_falls():
    recipe = Recipe(epochs=10, learning_rate=0.4, warmup_epochs=2)
    rates = [recipe.learning_rate_at(epoch) for epoch in (0, 0.5, 1, 2, 6, 10, 11)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.4, 0.2, 0, 0])
    assert recipe.learning_rate_at(4) == pytest.approx(0.2 * (1 + math.sqrt(0.5)))


def test_without_a_warm_up_it_starts_at_the_peak():
    assert Recipe(epochs=3, learning_rate=0.4, warmup_epochs=0).learning_rate_at(0) == 0.4


def test_a_warm_up_as_long_as_the_run_ends_at_the_peak():
    recipe = Recipe(epochs=2, learning_rate=0.4, warmup_epochs=2)
    assert recipe.learning_rate_at(1) == pytest.approx(0.2)
    assert recipe.learning_rate_at(2) == pytest.approx(0.4)


@given(st.integers(1, 50), st.floats(0, 1), st.floats(0, 1))
def test_the_learning_rate_stays_between_zero_and_the_peak(epochs, warmup, epoch):
    recipe = Recipe(epochs=epochs, learning_rate=0.3, warmup_epochs=warmup * epochs)
    assert 0 <= recipe.learning_rate_at(epoch * epochs) <= 0.3 * (1 + 1e-12)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("learning_rate", -0.1),
        ("learning_rate", math.nan),
        ("warmup_epochs", 5.5),
        ("momentum", 1.5),
        ("weight_decay", -1e-4),
        ("label_smoothing", 1.1),
        ("dropout", -0.1),
        ("ema_decay", 1.01),
        ("max_grad_norm", -1),
    ],
)
def test_fields_outside_their_range_are_refused_by_name(field, value):
    with pytest.raises(InputError, match="is out of range") as caught:
        Recipe(**{"epochs": 5, field: value})
    assert (caught.value.field, caught.value.legal != "") == (f"recipe.{field}", True)
