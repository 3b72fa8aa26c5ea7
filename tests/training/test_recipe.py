"""Recipes: the learning rate over time, and the ranges of every field."""

import math
from dataclasses import fields
from pathlib import Path

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


def test_the_page_on_recipes_names_every_option():
    page = Path(__file__).parents[2].joinpath("docs", "recipes.md").read_text(encoding="utf-8")
    assert [field.name for field in fields(Recipe) if f"`{field.name}`" not in page] == []


def test_without_a_warm_up_it_starts_at_the_peak():
    assert Recipe(epochs=3, learning_rate=0.4, warmup_epochs=0).learning_rate_at(0) == 0.4


def test_the_exponential_schedule_falls_by_its_rate_after_the_warm_up():
    recipe = Recipe(
        epochs=9, learning_rate=0.4, warmup_epochs=2, schedule="exponential", decay_rate=0.5
    )
    assert [recipe.learning_rate_at(e) for e in (1, 2, 3, 5)] == pytest.approx(
        [0.2, 0.4, 0.2, 0.05]
    )


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(InputError, match="would never fall") as caught:
        Recipe(epochs=2, warmup_epochs=2)
    assert (caught.value.field, caught.value.value) == ("recipe.warmup_epochs", 2)
    assert Recipe(epochs=2, warmup_epochs=1.99).warmup_epochs == 1.99


def test_two_ways_to_choose_operations_do_not_go_together():
    assert Recipe(epochs=2, auto_augment="imagenet").rand_augment_ops == 0
    with pytest.raises(InputError, match="does not go with 2 operation") as caught:
        Recipe(epochs=2, auto_augment="imagenet", rand_augment_ops=2)
    assert caught.value.field == "recipe.auto_augment"


def test_a_shortened_recipe_still_rises_and_falls():
    recipe = Recipe(epochs=20, warmup_epochs=3, dropout=0.2)
    assert recipe.shortened(8) == Recipe(epochs=8, warmup_epochs=3, dropout=0.2)
    assert recipe.shortened(2) == Recipe(epochs=2, warmup_epochs=0.5, dropout=0.2)


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "most"),
    [(8, 5, 1, "1 to 4"), (8, 2, 4, "1 to 1"), (7, 1, 4, "none")],
)
def test_parts_of_fewer_than_two_pictures_are_refused(batch, accumulation, processes, most):
    with pytest.raises(InputError, match="parts of fewer than two") as caught:
        Recipe(epochs=2, batch_size=batch, accumulation=accumulation).check_parts(processes)
    assert caught.value.legal == most


def test_the_largest_number_of_parts_is_taken():
    Recipe(epochs=2, batch_size=8, accumulation=4).check_parts(1)
    Recipe(epochs=2, batch_size=8, accumulation=2).check_parts(2)


@given(
    st.integers(1, 50),
    st.floats(0, 0.999),
    st.floats(0, 1),
    st.sampled_from(["cosine", "exponential"]),
)
def test_the_learning_rate_stays_between_zero_and_the_peak(epochs, warmup, epoch, schedule):
    recipe = Recipe(
        epochs=epochs, learning_rate=0.3, warmup_epochs=warmup * epochs, schedule=schedule
    )
    assert 0 <= recipe.learning_rate_at(epoch * epochs) <= 0.3 * (1 + 1e-12)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("learning_rate", -0.1),
        ("learning_rate", math.nan),
        ("learning_rate", 0),
        ("warmup_epochs", 5.5),
        ("warmup_epochs", math.nan),
        ("decay_rate", 1),
        ("momentum", 1.5),
        ("weight_decay", -1e-4),
        ("label_smoothing", 1.1),
        ("dropout", -0.1),
        ("dropout", 1),
        ("stochastic_depth", 1),
        ("mixup", -0.2),
        ("cutmix", math.nan),
        ("rand_augment_ops", -1),
        ("rand_augment_magnitude", 31),
        ("random_erasing", 1.1),
        ("batch_norm_momentum", 0),
        ("batch_norm_eps", 0),
        ("ema_decay", 1),
        ("max_grad_norm", 0),
        ("max_skipped_steps", -1),
        ("accumulation", 0),
    ],
)
def test_fields_outside_their_range_are_refused_by_name(field, value):
    with pytest.raises(InputError, match="is out of range") as caught:
        Recipe(**{"epochs": 5, field: value})
    assert (caught.value.field, caught.value.legal != "") == (f"recipe.{field}", True)
