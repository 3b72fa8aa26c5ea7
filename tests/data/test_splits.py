"""Class subsets and stratified splits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fpnas.data.layout import Entry
from fpnas.data.options import PrepareOptions
from fpnas.data.splits import count_by_class, make_plan
from fpnas.errors import InputError


def pool(counts, split=None):
    return [
        Entry(f"{split}/{key}/{i:04d}.jpg", key, split)
        for key, count in counts.items()
        for i in range(count)
    ]


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(3, 60), min_size=2, max_size=6),
    seed=st.integers(0, 2**31),
    val=st.floats(0.01, 0.99),
    alpha=st.floats(0.01, 0.99),
)
def test_every_class_is_split_in_the_asked_parts(counts, seed, val, alpha):
    entries = pool({f"c{i}": count for i, count in enumerate(counts)})
    options = PrepareOptions("x", seed=seed, val_fraction=val, alpha_fraction=alpha)
    plan = make_plan(entries, options)
    everything = [entry for split in plan.splits.values() for entry in split]
    assert sorted(everything) == sorted(entries)
    by_split = {name: count_by_class(split) for name, split in plan.splits.items()}
    for i, count in enumerate(counts):
        num_val, num_alpha = by_split["val"][f"c{i}"], by_split["alpha"][f"c{i}"]
        assert num_val == min(max(round(count * val), 1), count - 2)
        num_train = count - num_val
        assert num_alpha == min(max(round(num_train * alpha), 1), num_train - 1)
        assert by_split["weights"][f"c{i}"] == num_train - num_alpha >= 1


def test_official_splits_are_kept():
    entries = pool({"a": 5, "b": 4}, "train") + pool({"a": 2, "b": 1, "z": 1}, "val")
    plan = make_plan(entries, PrepareOptions("x"))
    assert count_by_class(plan.splits["val"]) == {"a": 2, "b": 1}
    assert {entry.split for entry in plan.splits["weights"]} == {"train"}
    assert plan.unused_val_classes == ("z",)


def test_a_split_does_not_depend_on_the_other_classes():
    some, more = pool({"a": 20, "b": 20}), pool({"a": 20, "b": 20, "c": 20})
    first, second = (make_plan(entries, PrepareOptions("x", seed=4)) for entries in (some, more))
    for name in ("weights", "alpha", "val"):
        kept = {entry for entry in second.splits[name] if entry.class_key != "c"}
        assert set(first.splits[name]) == kept


def test_order_of_the_source_does_not_matter_and_the_seed_does():
    entries = pool({"a": 20, "b": 20})
    plan = make_plan(entries, PrepareOptions("x"))
    assert make_plan(entries[::-1], PrepareOptions("x")) == plan
    assert make_plan(entries, PrepareOptions("x", seed=1)) != plan


def test_classes_by_number_name_and_cap():
    entries = pool({f"c{i}": 9 for i in range(8)})
    by_number = make_plan(entries, PrepareOptions("x", num_classes=3, seed=1)).class_keys
    assert len(by_number) == 3
    assert by_number == make_plan(entries, PrepareOptions("x", num_classes=3, seed=1)).class_keys
    named = PrepareOptions("x", class_names=("c7", "c2"), max_images_per_class=5)
    plan = make_plan(entries, named)
    assert plan.class_keys == ("c2", "c7")
    assert sum(len(split) for split in plan.splits.values()) == 10


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ({}, {}, "holds no pictures in class folders"),
        ({"a": 9}, {}, "has only one class, a"),
        ({"a": 9, "b": 2}, {}, "too few pictures for the split: class b has 2"),
        ({"a": 9, "b": 9}, {"num_classes": 3}, "num_classes=3 is more than the data has"),
        ({"ant": 9, "bee": 9}, {"class_names": ("ant", "be")}, "did you mean bee"),
    ],
)
def test_what_cannot_be_split_is_explained(counts, options, message):
    with pytest.raises(InputError, match=message):
        make_plan(pool(counts), PrepareOptions("x", **options))


def test_an_unknown_class_among_a_thousand_does_not_list_them():
    entries = pool({f"n{i:08d}": 3 for i in range(1000)})
    with pytest.raises(InputError) as caught:
        make_plan(entries, PrepareOptions("x", class_names=("#", "n00000001")))
    assert len(str(caught.value)) < 200


def test_official_splits_need_pictures_on_both_sides():
    train, val = pool({"a": 5, "b": 5}, "train"), pool({"a": 2, "b": 2}, "val")
    with pytest.raises(InputError, match=r"too few validation pictures.*class b has 0"):
        make_plan(train + val[:2], PrepareOptions("x"))
    with pytest.raises(InputError, match=r"too few training pictures.*class b has 1"):
        make_plan(train[:6] + val, PrepareOptions("x"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("val_fraction", 0.0),
        ("alpha_fraction", 1.0),
        ("max_quarantined_fraction", 2.0),
        ("seed", -1),
        ("num_classes", 1),
        ("class_names", ("a",)),
        ("max_images_per_class", 1),
        ("max_edge", 4),
        ("shard_bytes", 10),
    ],
)
def test_options_outside_their_range_are_refused_by_name(field, value):
    with pytest.raises(InputError) as caught:
        PrepareOptions("x", **{field: value})
    assert caught.value.field == field


def test_number_and_names_exclude_each_other():
    with pytest.raises(InputError, match="together with class_names"):
        PrepareOptions("x", num_classes=2, class_names=("a", "b"))
