"""The bounded cache of shards."""

import threading

import numpy as np
import pytest

from fpnas.data.shards import ShardCache
from fpnas.errors import FpnasError, InputError


class Owner:
    """Hands out files, deletes released ones, and records how many bytes lay there at most."""

    def __init__(self, folder, sizes):
        self.folder, self.sizes = folder, sizes
        self.fetched, self.peak = [], 0

    def fetch(self, name):
        self.fetched.append(name)
        path = self.folder / name
        path.write_bytes(bytes([int(name)]) * self.sizes[name])
        self.peak = max(self.peak, sum(p.stat().st_size for p in self.folder.iterdir()))
        return path

    def release(self, name):
        (self.folder / name).unlink()


@pytest.fixture
def owner(tmp_path):
    return Owner(tmp_path, {str(i): 100 + 10 * i for i in range(8)})


def test_it_never_holds_more_than_its_limit(owner):
    cache = ShardCache(owner.fetch, owner.release, owner.sizes, 400)
    for shard in np.random.default_rng(0).integers(0, 8, 200):
        assert cache.read(str(shard), 5, 3) == bytes([shard]) * 3
        assert cache.held_bytes <= 400
    assert 300 < owner.peak <= 400
    assert cache.num_fetched == len(owner.fetched)


def test_the_least_recently_read_goes_first(owner):
    cache = ShardCache(owner.fetch, owner.release, owner.sizes, 340)
    for name in ("0", "1", "2", "0", "3", "0"):
        cache.read(name, 0, 1)
    assert owner.fetched == ["0", "1", "2", "3"]
    assert sorted(p.name for p in owner.folder.iterdir()) == ["0", "3"]


def test_threads_share_one_fetch(owner):
    cache = ShardCache(owner.fetch, owner.release, owner.sizes, 400)
    threads = [threading.Thread(target=cache.read, args=("1", 0, 1)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert owner.fetched == ["1"]


def test_a_failed_fetch_is_not_held(owner):
    calls = []

    def fail_once(name):
        calls.append(name)
        if len(calls) == 1:
            raise FpnasError("no network")
        return owner.fetch(name)

    cache = ShardCache(fail_once, owner.release, owner.sizes, 400)
    with pytest.raises(FpnasError, match="no network"):
        cache.read("1", 0, 1)
    assert cache.held_bytes == 0
    assert cache.read("1", 0, 1) == b"\1"


def test_what_is_read_next_is_fetched_together_and_never_exceeds_the_limit(owner):
    together = threading.Barrier(3, timeout=30)

    def fetch(name):
        together.wait()  # breaks unless three are fetched at the same time
        return owner.fetch(name)

    cache = ShardCache(fetch, owner.release, owner.sizes, 400)
    # The fourth does not fit.
    cache.hold(["0", "1", "1", "2", "3"])
    assert sorted(owner.fetched) == ["0", "1", "2"]
    cache.hold(["2", "0"])
    cache.hold(["2", "4"])  # one alone is left to read
    assert cache.num_fetched == 3
    for name in "012":
        assert cache.read(name, 5, 3) == bytes([int(name)]) * 3
    assert owner.peak <= 400


def test_what_makes_room_is_what_will_not_be_read(owner):
    cache = ShardCache(owner.fetch, owner.release, owner.sizes, 450)
    cache.hold(["0", "1", "2"])
    cache.hold(["0", "3", "4"])
    assert sorted(p.name for p in owner.folder.iterdir()) == ["0", "3", "4"]
    assert cache.held_bytes <= 450
    assert owner.peak <= 450


def test_a_failed_fetch_leaves_the_others_held(owner):
    def fetch(name):
        if name == "1":
            raise FpnasError("no network")
        return owner.fetch(name)

    cache = ShardCache(fetch, owner.release, owner.sizes, 400)
    with pytest.raises(FpnasError, match="no network"):
        cache.hold(["0", "1", "2"])
    assert cache.held_bytes == owner.sizes["0"] + owner.sizes["2"]
    assert cache.read("2", 0, 1) == b"\2"
    assert sorted(owner.fetched) == ["0", "2"]


def test_a_limit_below_a_shard_and_a_short_shard_are_refused(owner):
    with pytest.raises(InputError, match="cache_bytes=169 is smaller than a shard"):
        ShardCache(owner.fetch, owner.release, owner.sizes, 169)
    cache = ShardCache(owner.fetch, owner.release, owner.sizes, 400)
    with pytest.raises(FpnasError, match="ends before the picture at 95 does"):
        cache.read("0", 95, 10)
