"""Writing the shards of a store: each once, whole, by one worker, with a receipt."""

import hashlib
from pathlib import Path

import numpy as np

from tttscale.data.builder.store_plan import ARRAYS, SPLITS, ShardJob, StoreLayout
from tttscale.data.builder.tokenized import LENGTH, Run
from tttscale.data.store.manifest import FileInfo
from tttscale.files import digest, remove, replaced, sync
from tttscale.reading import parse_json, read_bytes

_RECEIPT_BYTES = 1 << 16
INDEX_ENTRY_BYTES, INDEX_CHECKSUM_BYTES = 16, 4
"""A shard ends with the offset and the size of each of its chunks, and a crc32c of these."""


def prepare_arrays(store: Path, receipts: Path, layout: StoreLayout) -> None:
    """Makes the empty arrays of `layout` at `store`, unless that was done before."""
    import zarr
    from zarr.codecs import ZstdCodec

    marker = receipts / "prepared"
    if marker.is_file():
        return
    remove(store)
    receipts.mkdir(exist_ok=True)
    root = zarr.create_group(store, attributes={"complete": False})
    for split in SPLITS:
        group = root.create_group(split)
        for array in ARRAYS:
            group.create_array(
                array,
                shape=(layout.length(split, array),),
                dtype=layout.dtype if array == "tokens" else "uint64",
                chunks=(layout.chunk,),
                shards=(layout.shard_values(split, array),),
                # Without the checksum, a flipped bit gives other tokens in 254 of 256 cases.
                compressors=ZstdCodec(level=1, checksum=True),
            )
    for path in [store, *store.rglob("*")]:
        sync(path)
    with replaced(marker):
        pass
    sync(receipts)


def write_shard(
    job: ShardJob, store: Path, receipts: Path, runs: Path, layout: StoreLayout
) -> FileInfo:
    """Writes one shard, unless its receipt says that this was done before."""
    import zarr

    receipt = receipts / f"{job.split}-{job.array}-{job.index}.json"
    if (known := _receipt(receipt)) is not None:
        return known
    # A shard without a receipt may be torn, and Zarr would read what is there to fill up the last one.
    (store / job.key).unlink(missing_ok=True)
    values = shard_values(job, runs, layout)
    # A shard of zeros must be a file like any other, or it would look lost.
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(store, path=f"{job.split}/{job.array}", mode="r+")
        array[job.begin : job.end] = values
    info = describe(store / job.key, layout.shard_values(job.split, job.array) // layout.chunk)
    sync((store / job.key).parent)
    with replaced(receipt) as file:
        file.write(info.model_dump_json().encode())
    return info


def _receipt(path: Path) -> FileInfo | None:
    """What was noted when a shard was whole; None if it never was, or if nobody can tell."""
    try:
        return FileInfo.model_validate(parse_json(read_bytes(path, _RECEIPT_BYTES)))
    except (OSError, ValueError):
        return None


def shard_values(job: ShardJob, runs: Path, layout: StoreLayout) -> np.ndarray:
    """What belongs into the shard: tokens, or the places where documents begin."""
    found = []
    for part in job.parts:
        run = Run(runs, part.run, layout.dtype)
        table = run.table()
        mask = layout.holdout.mask(table, job.split)
        lengths = table[:, LENGTH].astype(np.int64)
        if job.array == "tokens":
            column = run.tokens()
            column = column if mask.all() else column[np.repeat(mask, lengths)]
        else:
            column = part.first_token + np.cumsum(lengths[mask]) - lengths[mask]
        found.append(column[max(job.begin - part.first, 0) : job.end - part.first])
    return np.concatenate(found)


def describe(path: Path, index_entries: int = 0) -> FileInfo:
    """Size and digests of a file, which is put on disk too.

    Args:
        path: The file.
        index_entries: Chunks of a shard, whose index at the end gets a digest of its own; 0: none.
    """
    sync(path)
    size = path.stat().st_size
    if not index_entries:
        return FileInfo(bytes=size, blake2b=digest(path))
    index_bytes = index_entries * INDEX_ENTRY_BYTES + INDEX_CHECKSUM_BYTES
    with path.open("rb") as file:
        file.seek(-index_bytes, 2)
        index = index_digest(file.read())
    return FileInfo(bytes=size, blake2b=digest(path), index=index, index_bytes=index_bytes)


def index_digest(index: bytes) -> str:
    """8-byte blake2b of a shard's index, hexadecimal."""
    return hashlib.blake2b(index, digest_size=8).hexdigest()
