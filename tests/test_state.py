"""State as named tensors and JSON."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fpnas.state import pack, unpack

trees = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "tensor", "map", "list", 0, 7]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(trees)
def test_trees_come_back_through_json(tree):
    tensors, structure = pack(tree)
    assert tensors == {}
    assert unpack(tensors, json.loads(json.dumps(structure))) == tree


def test_tensors_come_back_by_path():
    tree = {"a": [torch.arange(3), (1.5, torch.zeros(()))], 3: {"b": torch.ones(2, 0)}, "c": None}
    tensors, structure = pack(tree)
    assert set(tensors) == {"state.a.0", "state.a.1.1", "state.3.b"}
    again = unpack(tensors, json.loads(json.dumps(structure)))
    assert torch.equal(again["a"][0], torch.arange(3))
    assert again["a"][1][0] == 1.5  # a tuple comes back as a list
    assert torch.equal(again["a"][1][1], torch.zeros(()))
    assert again[3]["b"].shape == (2, 0)
    assert again["c"] is None


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_an_optimizer_goes_on_as_if_it_had_not_stopped(name):
    def start():
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        options = {"momentum": 0.9, "nesterov": True} if name == "SGD" else {}
        return layer, getattr(torch.optim, name)(layer.parameters(), lr=0.1, **options)

    def step(layer, optimizer, inputs):
        optimizer.zero_grad()
        layer(inputs).square().mean().backward()
        optimizer.step()

    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    layer, optimizer = start()
    step(layer, optimizer, inputs)
    tensors, structure = pack([dict(layer.state_dict()), optimizer.state_dict()])
    tensors = {path: tensor.clone() for path, tensor in tensors.items()}
    step(layer, optimizer, inputs)
    other, other_optimizer = start()
    weights, state = unpack(tensors, json.loads(json.dumps(structure)))
    other.load_state_dict(weights)
    other_optimizer.load_state_dict(state)
    step(other, other_optimizer, inputs)
    assert torch.equal(other.weight, layer.weight)
    assert torch.equal(other.bias, layer.bias)


@pytest.mark.parametrize("leaf", [object(), {1, 2}, b"bytes", 1j])
def test_other_leaves_are_refused_by_path(leaf):
    with pytest.raises(TypeError, match=rf"state\.a\.0 is a {type(leaf).__name__}"):
        pack({"a": [leaf]})


@pytest.mark.parametrize(
    "tree",
    [
        {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}},
        {0: torch.zeros(1), "0": torch.ones(1)},
    ],
)
def test_no_tensor_hides_another(tree):
    tensors, structure = pack(tree)
    assert len(tensors) == 2
    # Keys that are numbers and keys that are text stay apart, and so do their values.
    again = unpack(tensors, json.loads(json.dumps(structure)))
    assert again.keys() == tree.keys()
    values = [value["b"] if isinstance(value, dict) else value for value in again.values()]
    assert [value.item() for value in values] == [0, 1]
