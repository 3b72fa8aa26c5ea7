"""Order, partition over ranks, resuming and the bounded cache of the loader."""

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fpnas.data import loader as loader_module
from fpnas.data.augment import Augmentation
from fpnas.data.dataset import Dataset
from fpnas.data.loader import ImageLoader
from fpnas.data.order import epoch_order, training_batch
from fpnas.errors import FpnasError, InputError


def make(dataset, split="train", **options):
    options = {"batch_size": 10, "input_size": 16, "training": True, "seed": 5, **options}
    return ImageLoader(dataset, split, **options)


def take(loader, count):
    batches = iter(loader)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, two in zip(first, second, strict=True):
        for name in ("images", "labels", "indices"):
            assert torch.equal(getattr(one, name), getattr(two, name))


def test_the_dataset_says_what_it_holds(dataset):
    assert dataset.num_classes == 3
    assert [info.key for info in dataset.classes] == ["ape", "bee", "cow"]
    assert len(dataset.split("train")) == 96
    assert len(dataset.split("weights")) == len(dataset.split("alpha")) == 48
    assert set(dataset.split("val")["split"]) == {"val"}
    with pytest.raises(InputError, match="did you mean val"):
        dataset.split("vall")


def test_training_gives_whole_shuffled_batches_without_end(dataset):
    loader = make(dataset)
    assert len(loader) == 9
    batches = take(loader, 20)
    assert {tuple(batch.images.shape) for batch in batches} == {(10, 3, 16, 16)}
    assert batches[0].images.dtype == torch.uint8
    first = torch.cat([batch.indices for batch in batches[:9]])
    second = torch.cat([batch.indices for batch in batches[9:18]])
    assert len(first.unique()) == len(second.unique()) == 90
    assert not torch.equal(first, second)
    assert (loader.epoch, loader.position) == (2, 2)
    labels = dataset.split("train")["class_index"].to_numpy()
    assert batches[3].labels.tolist() == labels[batches[3].indices].tolist()


def test_evaluation_is_one_pass_that_keeps_the_last_batch(dataset):
    loader = make(dataset, "val", training=False, batch_size=7)
    once, again = list(loader), list(loader)
    assert [len(batch.labels) for batch in once] == [7, 7, 7, 3]
    assert len(loader) == 4
    assert torch.cat([batch.indices for batch in once]).tolist() == list(range(24))
    assert_equal(once, again)


def test_a_split_smaller_than_a_batch_gives_one_batch(dataset):
    loader = make(dataset, "alpha", batch_size=1000)
    assert len(loader) == 1
    assert sorted(take(loader, 1)[0].indices.tolist()) == list(range(48))


def test_equal_seeds_give_equal_batches_and_others_do_not(dataset):
    assert_equal(take(make(dataset), 12), take(make(dataset), 12))
    assert not torch.equal(take(make(dataset), 1)[0].indices, take(make(dataset, seed=6), 1)[0][2])


@pytest.mark.parametrize("augmentation", ["crop_flip", "imagenet"])
@pytest.mark.parametrize("options", [{"memory_bytes": 0}, {"num_threads": 1}, {"num_threads": 3}])
def test_memory_and_threads_change_no_bit(dataset, augmentation, options):
    # 20 batches are more than two epochs, so the pictures of the reference come from memory.
    reference = take(make(dataset, augmentation=augmentation), 20)
    assert_equal(reference, take(make(dataset, augmentation=augmentation, **options), 20))


@pytest.mark.parametrize("position", [0, 1, 8, 9, 13])
def test_resuming_anywhere_is_bit_equal(dataset, position):
    whole = take(make(dataset, augmentation="imagenet"), 20)
    stopped = make(dataset, augmentation="imagenet")
    take(stopped, position)
    state = json.loads(json.dumps(stopped.state_dict()))
    resumed = make(dataset, augmentation="imagenet")
    resumed.load_state_dict(state)
    assert_equal(whole[position:], take(resumed, 20 - position))


def test_batches_that_were_prepared_ahead_are_not_counted(dataset):
    loader = make(dataset)
    batches = iter(loader)
    next(batches)
    assert (loader.epoch, loader.position) == (0, 1)
    batches.close()


def test_a_state_of_other_batches_is_refused(dataset):
    state = make(dataset).state_dict()
    for field, value in (("batch_size", 9), ("seed", 1)):
        with pytest.raises(InputError, match=f"resume with {field}="):
            make(dataset, **{field: value}).load_state_dict(state)
    with pytest.raises(InputError, match="is not in the epoch"):
        make(dataset).load_state_dict({**state, "position": 9})


@pytest.mark.parametrize("batch_size", [15, 22, 96, 200])
def test_ranks_share_the_epoch_and_together_see_what_one_would(dataset, batch_size):
    ranks = [
        make(dataset, rank=rank, world_size=3, batch_size=batch_size, augmentation="none")
        for rank in range(3)
    ]
    steps = len(ranks[0])
    assert {len(loader) for loader in ranks} == {steps}
    taken = [take(loader, steps) for loader in ranks]
    seen = torch.cat([batch.indices for batches in taken for batch in batches])
    assert len(seen.unique()) == len(seen)
    alone = take(make(dataset, batch_size=batch_size, augmentation="none"), steps)
    for step in range(steps):
        parts = [batches[step] for batches in taken]
        assert torch.equal(torch.cat([part.indices for part in parts]), alone[step].indices)
        assert torch.equal(torch.cat([part.images for part in parts]), alone[step].images)
        assert max(len(p.labels) for p in parts) - min(len(p.labels) for p in parts) <= 1


def test_other_ranks_go_on_where_some_stopped(dataset):
    stopped = [make(dataset, rank=rank, world_size=2, batch_size=12) for rank in range(2)]
    for loader in stopped:
        take(loader, 5)
    assert stopped[0].state_dict() == stopped[1].state_dict()
    whole = take(make(dataset, batch_size=12), 8)
    resumed = [make(dataset, rank=rank, world_size=3, batch_size=12) for rank in range(3)]
    for loader in resumed:
        loader.load_state_dict(stopped[0].state_dict())
    taken = [take(loader, 3) for loader in resumed]
    for step in range(3):
        together = torch.cat([batches[step].images for batches in taken])
        assert torch.equal(together, whole[5 + step].images)


def test_ranks_evaluate_every_picture_once(dataset):
    loaders = [make(dataset, "val", training=False, rank=rank, world_size=5) for rank in range(5)]
    seen = [row for loader in loaders for batch in loader for row in batch.indices.tolist()]
    assert sorted(seen) == list(range(24))


def test_a_small_cache_is_never_exceeded_and_fetches_each_shard_once_an_epoch(prepared):
    held, peak, fetched = {}, [], []

    def fetch(name):
        path = prepared / name
        if name.startswith("shards/"):
            held[name] = path.stat().st_size
            peak.append(sum(held.values()))
            fetched.append(name)
        return path

    limit = 4 << 20
    small = Dataset(fetch, cache_bytes=limit, release=held.pop)
    num_shards = sum(shard.split != "val" for shard in small.shards.values())
    assert small.split_bytes("train") > limit
    loader = make(small, batch_size=8, memory_bytes=0, augmentation="none")
    batches = take(loader, 12)
    assert sorted(torch.cat([batch.indices for batch in batches]).tolist()) == list(range(96))
    assert max(peak) <= limit
    # Two batches ahead belong to the next epoch.
    first_epoch = fetched[:num_shards]
    assert len(set(first_epoch)) == num_shards
    state = loader.state_dict()
    with pytest.raises(InputError, match="window_bytes"):
        make(Dataset(fetch), batch_size=8).load_state_dict(state)


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    window=st.integers(0, 40),
    epoch=st.integers(0, 50),
)
def test_an_order_is_a_permutation_that_keeps_to_its_window(counts, window, epoch):
    sizes = np.array(counts)
    shards = np.repeat(np.arange(len(counts)), counts)
    order = epoch_order(shards, sizes, window, seed=1, epoch=epoch)
    assert sorted(order) == list(range(len(shards)))
    again = epoch_order(shards, sizes, window, seed=1, epoch=epoch)
    np.testing.assert_array_equal(order, again)
    # Shards between their first and last use are held together.
    used = shards[order]
    spans = {shard: np.flatnonzero(used == shard)[[0, -1]] for shard in range(len(counts))}
    for step in range(len(order)):
        held = [shard for shard, (first, last) in spans.items() if first <= step <= last]
        assert not window or len(held) == 1 or sizes[held].sum() <= window


def test_a_split_that_fits_is_permuted_as_a_whole():
    shards = np.repeat([0, 1], 50)
    order = epoch_order(shards, np.array([1, 1]), 2, seed=0, epoch=0)
    mixed = sum(shards[a] != shards[b] for a, b in itertools.pairwise(order))
    assert mixed > 30


def test_few_rows_are_shared_out_evenly():
    order = np.arange(7)
    for batch_size, expected in ((4, [[0], [1], [2, 3]]), (9, [[0, 1], [2, 3], [4, 5, 6]])):
        options = {"batch_size": batch_size, "world_size": 3}
        parts = [training_batch(order, 0, rank=rank, **options).tolist() for rank in range(3)]
        assert parts == expected


def test_a_changed_shard_is_noticed(prepared, tmp_path):
    def fetch(name):
        if not name.startswith("shards/"):
            return prepared / name
        copy = tmp_path / name.replace("/", "-")
        copy.write_bytes((prepared / name).read_bytes().replace(b"IDAT", b"IDAX"))
        return copy

    with pytest.raises(FpnasError, match="not the one that was prepared"):
        take(make(Dataset(fetch)), 1)


def test_another_schema_is_refused(tmp_path):
    (tmp_path / "dataset.json").write_text('{"schema_version": 99}')
    with pytest.raises(FpnasError, match="schema version 99"):
        Dataset(lambda name: tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 is too small"),
        ({"input_size": 0}, "input_size=0 is too small"),
        ({"num_threads": 0}, "num_threads=0 is too small"),
        ({"rank": 2, "world_size": 2}, "rank=2 is not a process"),
        ({"world_size": 11}, "world_size=11 is more than the 10 pictures of a step"),
        ({"augmentation": "crops"}, "did you mean crop"),
    ],
)
def test_numbers_outside_their_range_are_refused(dataset, options, message):
    with pytest.raises(InputError, match=message):
        make(dataset, **options)


@pytest.mark.parametrize(("device", "together"), [("cpu", False), ("meta", True)])
def test_pictures_are_distorted_as_a_batch_where_there_is_another_device(
    dataset, monkeypatch, device, together
):
    seen = []

    def listening(images, *_arguments, **_options):
        seen.append(images.device.type)
        return images

    monkeypatch.setattr(loader_module, "distort_images", listening)
    augmentation = Augmentation(rand_augment_ops=1)
    (batch,) = take(make(dataset, augmentation=augmentation, device=device), 1)
    assert batch.images.device.type == device
    assert (batch.labels.device.type, batch.indices.device.type) == ("cpu", "cpu")
    assert seen == ([device] if together else [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_distorts_as_the_processor_does(dataset):
    augmentation = Augmentation(padding=0.1, rand_augment_ops=2, random_erasing=0.5)
    here, there = (
        take(make(dataset, augmentation=augmentation, device=device), 3)
        for device in ("cpu", "cuda")
    )
    for one, two in zip(here, there, strict=True):
        difference = (one.images.int() - two.images.cpu().int()).abs()
        assert (difference <= 4).float().mean() > 0.95


def test_distorting_in_batch_gives_the_same_batches_but_for_rounding(dataset):
    augmentation = Augmentation(padding=0.1, rand_augment_ops=1, random_erasing=0.5)
    alone, together = (
        take(make(dataset, augmentation=augmentation, distort_in_batch=yes), 12)
        for yes in (False, True)
    )
    for one, two in zip(alone, together, strict=True):
        assert torch.equal(one.indices, two.indices)
        assert one.images.shape == two.images.shape
        assert two.images.dtype == torch.uint8
        assert two.images.is_contiguous(memory_format=torch.channels_last)
        difference = (one.images.int() - two.images.int()).abs()
        assert (difference <= 4).float().mean() > 0.95
    # The second epoch is another one, and evaluation is not distorted.
    assert not torch.equal(together[0].images, together[9].images)
    plain, asked = (
        list(make(dataset, "val", training=False, augmentation=augmentation, distort_in_batch=yes))
        for yes in (None, True)
    )
    assert_equal(plain, asked)
