"""Writing the shards of a store: each once, whole, by one worker, with a receipt."""

from pathlib import Path

import numpy as np

from tttscale.data.builder.store_plan import ARRAYS, SPLITS, ShardJob, StorePlan
from tttscale.data.builder.tokenized import LENGTH, TokenizedSlice
from tttscale.data.store.manifest import FileInfo
from tttscale.data.store.shard_index import index_bytes, index_digest
from tttscale.files import digest, remove, replaced, sync
from tttscale.reading import parse_json, read_bytes

_RECEIPT_BYTES = 1 << 16


def prepare_arrays(store: Path, receipts: Path, plan: StorePlan) -> None:
    """Make the empty arrays of `plan` at `store`, unless that was done before."""
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
                shape=(plan.length(split, array),),
                dtype=plan.dtype if array == "tokens" else "uint64",
                chunks=(plan.chunk,),
                shards=(plan.shard_values(split, array),),
                # Without the checksum, a flipped bit gives other tokens in 254 of 256 cases.
                compressors=ZstdCodec(level=1, checksum=True),
            )
    for path in [store, *store.rglob("*")]:
        sync(path)
    with replaced(marker):
        pass
    sync(receipts)


def write_shard(
    job: ShardJob, store: Path, receipts: Path, tokenized: Path, plan: StorePlan
) -> FileInfo:
    """Write one shard, unless its receipt says that this was done before."""
    import zarr

    receipt = receipts / f"{job.split}-{job.array}-{job.index}.json"
    if (known := _receipt(receipt)) is not None:
        return known
    # A shard without a receipt may be torn, and Zarr would read it to fill up the last one.
    (store / job.key).unlink(missing_ok=True)
    values = shard_values(job, tokenized, plan)
    # A shard of zeros must be a file like any other, or it would look lost.
    with zarr.config.set({"array.write_empty_chunks": True}):
        array = zarr.open_array(store, path=f"{job.split}/{job.array}", mode="r+")
        array[job.begin : job.end] = values
    info = describe(store / job.key, plan.shard_values(job.split, job.array) // plan.chunk)
    sync((store / job.key).parent)
    with replaced(receipt) as file:
        file.write(info.model_dump_json().encode())
    return info


def _receipt(path: Path) -> FileInfo | None:
    """Read what was noted when a shard was whole; None if it never was, or if that is not known."""
    try:
        return FileInfo.model_validate(parse_json(read_bytes(path, _RECEIPT_BYTES)))
    except (OSError, ValueError):
        return None


def shard_values(job: ShardJob, tokenized: Path, plan: StorePlan) -> np.ndarray:
    """Return the shard's values: tokens, or offsets at which documents begin."""
    found = []
    for placed in job.slices:
        tokenized_slice = TokenizedSlice(tokenized, placed.name, plan.dtype)
        table = tokenized_slice.table()
        mask = plan.holdout.mask(table, job.split)
        lengths = table[:, LENGTH].astype(np.int64)
        if job.array == "tokens":
            column = tokenized_slice.tokens()
            column = column if mask.all() else column[np.repeat(mask, lengths)]
        else:
            column = placed.first_token + np.cumsum(lengths[mask]) - lengths[mask]
        found.append(column[max(job.begin - placed.first, 0) : job.end - placed.first])
    return np.concatenate(found)


def describe(path: Path, chunks: int = 0) -> FileInfo:
    """Sync a file to disk and return its size and digests.

    Args:
        path: the file.
        chunks: chunks of a shard, whose index at the end gets a digest of its own; 0: not a shard.
    """
    sync(path)
    size = path.stat().st_size
    if not chunks:
        return FileInfo(bytes=size, blake2b=digest(path))
    at_end = index_bytes(chunks)
    with path.open("rb") as file:
        file.seek(-at_end, 2)
        index = index_digest(file.read())
    return FileInfo(bytes=size, blake2b=digest(path), index=index, index_bytes=at_end)
