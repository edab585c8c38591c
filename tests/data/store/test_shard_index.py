"""The size of a shard's index is the one that Zarr writes, and a digest tells indexes apart."""

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from tttscale.data.store.shard_index import index_bytes, index_digest


@pytest.mark.parametrize("chunks", [1, 4])
def test_a_shard_that_zarr_writes_ends_with_so_many_bytes(tmp_path, chunks):
    array = zarr.create_array(
        tmp_path / "a",
        shape=(64 * chunks,),
        dtype="uint16",
        chunks=(64,),
        shards=(64 * chunks,),
        compressors=ZstdCodec(level=1, checksum=True),
    )
    array[:] = np.arange(64 * chunks)
    shard = (tmp_path / "a/c/0").read_bytes()
    entries = np.frombuffer(shard[-index_bytes(chunks) : -4], "<u8").reshape(chunks, 2)
    ends = entries.sum(1).tolist()
    assert entries[:, 0].tolist() == [0, *ends[:-1]]
    assert ends[-1] + index_bytes(chunks) == len(shard)


def test_any_other_index_has_another_digest():
    index = bytes(range(36))
    known = index_digest(index)
    assert known == "0dc0c58d76b2e27f"  # stores hold it: it may not change
    others = {index_digest(index[:i] + bytes([index[i] ^ 1]) + index[i + 1 :]) for i in range(36)}
    assert len(others | {known, index_digest(index[:-1])}) == 38
