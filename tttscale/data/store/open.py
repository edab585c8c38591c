"""Opening a store by its place: one with a manifest, or plain arrays of tokens."""

from pathlib import Path

from tttscale.data.store.integrity import check_files, parse_manifest, root_attributes
from tttscale.data.store.protocols import Store
from tttscale.data.store.quarantine import Damaged, read_quarantine
from tttscale.data.store.storage import open_storage, require_zarr
from tttscale.data.store.token_store import TokenStore


def open_store(
    location: str | Path, damaged: Damaged = "refuse", vocab_size: int | None = None
) -> Store:
    """Open a store and check that every file is there with its size.

    Args:
        location: a folder, or a URL such as s3://bucket/store.
        damaged: "pad" reads as padding what `data verify --quarantine` found damaged.
        vocab_size: for plain arrays without a manifest, which do not know their own.

    Raises:
        DataError: it is missing, incomplete, damaged, or not a store of this version.
    """
    require_zarr()
    from tttscale.data.store.plain import PlainStore, is_plain  # needs zarr at its import

    storage = open_storage(location)
    attributes = root_attributes(storage)
    if not attributes and is_plain(storage):
        return PlainStore(storage, vocab_size)
    info = parse_manifest(attributes, storage.location)
    quarantine = read_quarantine(storage, info.fingerprint) if damaged == "pad" else None
    check_files(storage, info, {r.file for r in quarantine.ranges} if quarantine else ())
    return TokenStore(storage, info, quarantine)
