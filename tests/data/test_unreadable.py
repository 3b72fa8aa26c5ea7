"""Pictures that cannot be decoded: passed over, counted, named, and not too many of them."""

import hashlib
import itertools
import json
import logging

import pandas as pd
import pytest
import torch

from fpnas.data.dataset import Dataset
from fpnas.data.loader import ImageLoader
from fpnas.data.unreadable import UnreadablePictures
from fpnas.errors import FpnasError

SPOILT = (5, 40)
"""Rows of the training split."""


@pytest.fixture
def spoilt(prepared, tmp_path):
    """Opens the dataset with the pixels of some rows destroyed; the digests say all is well."""

    def open_(rows, split="train"):
        index = pd.read_parquet(prepared / "index.parquet")
        members = {"train": ["weights", "alpha"], "val": ["val"]}[split]
        shards = {}
        for place in index.index[index["split"].isin(members)][list(rows)]:
            row = index.loc[place]
            data = shards.setdefault(
                row["shard"], bytearray((prepared / row["shard"]).read_bytes())
            )
            start, length = int(row["offset"]), int(row["num_bytes"])
            data[start + length // 3 : start + length] = bytes(length - length // 3)
            digest = hashlib.sha256(data[start : start + length]).hexdigest()
            index.loc[place, "sha256"] = digest
        index.to_parquet(tmp_path / "index.parquet")
        for name, data in shards.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
        return Dataset(lambda n: tmp_path / n if (tmp_path / n).exists() else prepared / n)

    return open_


@pytest.fixture
def lenient(monkeypatch):
    monkeypatch.setattr("fpnas.data.unreadable.MAX_FRACTION", 0.05)


def make(dataset, split="train", **options):
    options = {"batch_size": 12, "input_size": 16, "training": True, "seed": 5, **options}
    return ImageLoader(dataset, split, **options)


def take(loader, count):
    batches = iter(loader)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


@pytest.mark.usefixtures("lenient")
def test_the_next_picture_of_the_batch_takes_the_place(spoilt, dataset, caplog):
    with caplog.at_level(logging.WARNING, "fpnas"):
        loader = make(spoilt(SPOILT))
        found, whole = take(loader, 16), take(make(dataset), 16)
    replaced = 0
    for batch, good in zip(found, whole, strict=True):
        assert batch.images.shape == (12, 3, 16, 16)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        for place, row in enumerate(good.indices.tolist()):
            source = place
            if row in SPOILT:
                source, replaced = (place + 1) % 12, replaced + 1
            assert batch.indices[place] == good.indices[source]
            assert batch.labels[place] == good.labels[source]
            assert torch.equal(batch.images[place], good.images[source])
    assert replaced == 2 * len(SPOILT)
    names = dataset.split("train")["name"]
    assert sorted(loader.unreadable.reasons) == list(SPOILT)
    for row in SPOILT:
        assert sum(names[row] in record.getMessage() for record in caplog.records) == 1


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("options", [{"memory_bytes": 0}, {"num_threads": 1}, {"num_threads": 5}])
def test_memory_and_threads_change_no_bit(spoilt, options):
    dataset = spoilt(SPOILT)
    for one, two in zip(take(make(dataset), 16), take(make(dataset, **options), 16), strict=True):
        assert all(map(torch.equal, one, two))


@pytest.mark.usefixtures("lenient")
def test_a_loader_that_goes_on_remembers_them(spoilt):
    dataset = spoilt(SPOILT)
    whole, stopped, resumed = make(dataset), make(dataset), make(dataset)
    expected = take(whole, 16)
    take(stopped, 10)
    state = json.loads(json.dumps(stopped.state_dict()))
    assert set(state["unreadable"]) == {str(row) for row in SPOILT}
    resumed.load_state_dict(state)
    assert resumed.unreadable.state_dict() == whole.unreadable.state_dict()
    for one, two in zip(expected[10:], take(resumed, 6), strict=True):
        assert all(map(torch.equal, one, two))


def test_evaluation_leaves_them_out(spoilt, dataset):
    loader = make(spoilt([3], "val"), "val", training=False, batch_size=10)
    found, whole = list(loader), list(make(dataset, "val", training=False, batch_size=10))
    assert [len(batch.labels) for batch in found] == [9, 10, 4]
    rows = torch.cat([batch.indices for batch in found]).tolist()
    assert rows == [row for row in range(24) if row != 3]
    assert torch.equal(found[0].images, whole[0].images[[i for i in range(10) if i != 3]])
    assert list(loader.unreadable.reasons) == [3]


def test_more_than_the_limit_end_the_run(spoilt):
    loader = make(spoilt(SPOILT))  # one per cent of 96 pictures, and one at least
    with pytest.raises(FpnasError, match="2 of 96 pictures cannot be decoded"):
        take(loader, 8)


def test_the_limit_is_a_share_of_the_split():
    unreadable = UnreadablePictures([f"{row}.jpg" for row in range(500)])
    for row in (7, 7, 8, 9, 10, 11):
        unreadable.add(row, "spoilt")
    with pytest.raises(FpnasError, match=r"the last one 12\.jpg \(spoilt\)\. More than 5 are"):
        unreadable.add(12, "spoilt")


@pytest.mark.usefixtures("lenient")
def test_a_batch_of_nothing_else_is_an_error(spoilt):
    loader = make(spoilt(SPOILT[:1]), batch_size=1)
    with pytest.raises(FpnasError, match="raise the batch size"):
        take(loader, 96)


def test_a_picture_of_another_size_than_prepared_is_unreadable(prepared, tmp_path):
    index = pd.read_parquet(prepared / "index.parquet")
    place = index.index[index["split"] == "val"][0]
    index.loc[place, "width"] = 10
    index.to_parquet(tmp_path / "index.parquet")
    dataset = Dataset(lambda n: tmp_path / n if (tmp_path / n).exists() else prepared / n)
    # Random crops take pictures as they are; evaluation makes them all one size.
    loader = make(dataset, "val", training=True, augmentation="imagenet", batch_size=24)
    take(loader, 1)
    assert list(loader.unreadable.reasons) == [0]
