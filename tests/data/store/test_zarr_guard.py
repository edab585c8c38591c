"""What stands between Zarr and the files, whichever way Zarr reads."""

import asyncio

import pytest
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore

from tttscale.data import open_store
from tttscale.data.store.zarr_guard import GuardedStore
from tttscale.errors import DataError


class Synchronous:
    """A store as zarr 3.3 and later read it where nobody waits."""

    def __init__(self, files):
        self.files, self.asked = files, []

    def get_sync(self, key, *, prototype=None, byte_range=None):
        self.asked.append((key, byte_range))
        data = self.files.get(key)
        if data is None:
            return None
        suffix = isinstance(byte_range, SuffixByteRequest)
        data = data[-byte_range.suffix :] if suffix else data
        return default_buffer_prototype().buffer.from_bytes(data)


def test_the_synchronous_way_is_guarded_too(store):
    manifest = open_store(store).info.files
    keys = ["train/tokens/c/0", "train/tokens/c/1"]
    fake = Synchronous({keys[0]: (store / keys[0]).read_bytes()})
    guard = GuardedStore(fake, manifest, "here")  # type: ignore[arg-type]
    index = SuffixByteRequest(manifest[keys[0]].index_bytes)
    first = guard.get_sync(keys[0], byte_range=index)
    assert guard.get_sync(keys[0], byte_range=index).to_bytes() == first.to_bytes()
    assert len(fake.asked) == 1
    assert guard.get_sync(keys[0]).to_bytes() == fake.files[keys[0]]
    with pytest.raises(DataError, match=r"here: train/tokens/c/1 is missing"):
        guard.get_sync(keys[1], byte_range=index)
    fake.files[keys[1]] = fake.files[keys[0]]
    for wanted in (index, None):
        with pytest.raises(DataError, match=r"here: train/tokens/c/1 is damaged at its end"):
            guard.get_sync(keys[1], byte_range=wanted)


def test_several_ranges_at_once_are_guarded_too(store):
    """As zarr 3.3 and later ask for the chunks of a shard; older ones ask by `get` alone."""
    manifest, key = open_store(store).info.files, "train/tokens/c/1"
    guard = GuardedStore(LocalStore(store, read_only=True), manifest, "here")
    wanted = [RangeByteRequest(9, 30), SuffixByteRequest(manifest[key].index_bytes), None]
    data = (store / key).read_bytes()

    async def ask():
        groups = guard.get_ranges(
            key, wanted, prototype=default_buffer_prototype(), max_gap_bytes=1
        )
        return {place: one and one.to_bytes() async for group in groups for place, one in group}

    assert asyncio.run(ask()) == {0: data[9:30], 1: data[-manifest[key].index_bytes :], 2: data}
    (store / key).unlink()
    with pytest.raises(DataError, match=r"here: train/tokens/c/1 is missing"):
        asyncio.run(ask())
