"""Two checkpoint slots in turn, of which one always is whole."""

import pytest
import torch

from fpnas.storage import (
    ArtifactCorruptError,
    CheckpointSlot,
    StorageError,
)

from .helpers import fail_calls


def state(value):
    return {"w": torch.full((2, 3), float(value)), "step": torch.tensor(value)}


def test_checkpoint_holds_every_kind_of_tensor(store):
    tensors = {
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "half": torch.randn(5).bfloat16(),
        "turned": torch.arange(6).reshape(2, 3).t(),
        "flags": torch.tensor([True, False]),
        "nan": torch.tensor([float("nan")]),
    }
    meta = {"epoch": 1, "name": '"\u00e9"', "rng": [1, 2**63]}
    CheckpointSlot(store, "k").save(tensors, meta)
    read, read_meta = CheckpointSlot(store, "k").load()
    assert read_meta == meta
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_newest_checkpoint_is_loaded(store):
    assert CheckpointSlot(store, "k").load() is None
    for value in range(5):
        CheckpointSlot(store, "k").save(state(value), {"step": value})  # a new process each time
        tensors, meta = CheckpointSlot(store, "k").load()
        assert meta == {"step": value}
        assert torch.equal(tensors["w"], state(value)["w"])
    slot = CheckpointSlot(store, "k")
    slot.save(state(8), {"step": 8})
    slot.save(state(9), {"step": 9})
    assert slot.load()[1] == {"step": 9}
    assert len(list(store.list("checkpoints/k/"))) == 2
    slot.delete()
    assert list(store.list("checkpoints/")) == []
    assert slot.load() is None


@pytest.mark.parametrize("damage", ["cut", "flip data", "flip header", "empty"])
def test_damaged_checkpoint_falls_back_to_the_one_before(store, caplog, damage):
    slot = CheckpointSlot(store, "k")
    slot.save(state(1), {"step": 1})
    slot.save(state(2), {"step": 2})
    key = "checkpoints/k/b.safetensors"
    data = bytearray(store.get_bytes(key))
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip data":
        data[-1] ^= 1
    elif damage == "flip header":
        data[data.index(b'step\\":2') + 7] ^= 1
    else:
        data = bytearray()
    store.put_bytes(key, bytes(data))
    again = CheckpointSlot(store, "k")
    assert again.load()[1] == {"step": 1}
    assert "b.safetensors" in caplog.text
    again.save(state(3), {"step": 3})
    assert CheckpointSlot(store, "k").load()[1] == {"step": 3}
    assert len(list(store.list("checkpoints/k/"))) == 2


def test_two_damaged_checkpoints_are_an_error_one_is_not(store):
    store.put_bytes("checkpoints/k/a.safetensors", b"x")
    assert CheckpointSlot(store, "k").load() is None
    store.put_bytes("checkpoints/k/b.safetensors", b"x")
    with pytest.raises(ArtifactCorruptError, match="no whole checkpoint"):
        CheckpointSlot(store, "k").load()


def test_failed_save_keeps_the_state_before(store):
    slot = CheckpointSlot(store, "k")
    slot.save(state(1), {"step": 1})
    fail_calls(store.client, "PutObject", "InternalError", when=lambda call: call == 1)
    with pytest.raises(StorageError):
        slot.save(state(2), {"step": 2})
    assert CheckpointSlot(store, "k").load()[1] == {"step": 1}
    slot.save(state(3), {"step": 3})
    assert CheckpointSlot(store, "k").load()[1] == {"step": 3}


def test_checkpoint_meta_must_be_json(store):
    with pytest.raises(ValueError, match="JSON"):
        CheckpointSlot(store, "k").save({}, {"loss": float("nan")})
