"""Checking that a store is whole, as far as that is known without reading its tokens."""

from collections.abc import Collection
from typing import Any

from tttscale.data.store.manifest import (
    FORMAT,
    FORMAT_VERSION,
    StoreInfo,
    manifest_digest,
)
from tttscale.data.store.quarantine import read_quarantine
from tttscale.data.store.storage import Storage
from tttscale.errors import DataError
from tttscale.files import digest_of
from tttscale.reading import parse_json
from tttscale.versions import KEY, is_newer, newer

REBUILD = "Build it again with `tttscale data build`, or fetch it again."


def parse_manifest(attributes: dict[str, Any], location: str) -> StoreInfo:
    """The manifest in the root attributes of the group at `location`.

    Raises:
        DataError: its build did not end, it is not a token store, or it is of another version.
    """
    if not attributes:
        raise DataError(f"{location}: not a Zarr v3 group of tokens. {REBUILD}")
    if attributes == {"complete": False}:
        raise DataError(f"{location}: incomplete, its build was interrupted. {REBUILD}")
    if attributes.get("format") != FORMAT:
        raise DataError(
            f"{location}: a Zarr group, but not a token store (no format {FORMAT!r} in "
            "its attributes). Give a folder made by `tttscale data build`."
        )
    wrote, version = attributes.get(KEY), attributes.get("format_version")
    StoreInfo.refuse_newer(attributes, location, DataError, wrote)
    if version != FORMAT_VERSION:
        raise DataError(
            f"{location}: format version {version!r:.40}, but this tttscale reads "
            f"{FORMAT_VERSION}. Use the tttscale that built it, or build it again."
        )
    fields = {key: value for key, value in attributes.items() if key != "digest"}
    if attributes.get("digest") != manifest_digest(fields):
        if is_newer(wrote):
            raise DataError(newer(location, wrote))
        raise DataError(f"{location}: its manifest was changed after the build. {REBUILD}")
    return StoreInfo.read(fields, f"{location}: its manifest", DataError, REBUILD)


def check_files(storage: Storage, info: StoreInfo, excused: Collection[str] = ()) -> None:
    """Compare a store with its manifest: all sizes, and the digests of the small metadata.

    Args:
        storage: the store's files.
        info: its manifest.
        excused: files that may be missing or cut, since they are quarantined.

    Raises:
        DataError: a file is missing, of another size, or metadata was changed.
    """
    sizes = storage.sizes()
    for key, expected in info.files.items():
        if sizes is not None and key not in excused:
            found = sizes.get(key)
            if found != expected.bytes:
                state = "is missing" if found is None else f"has {found} bytes"
                raise DataError(
                    f"{storage.location}: {key} {state}, the manifest says {expected.bytes} "
                    f"bytes. {remedy(storage, info, key)}"
                )
        if expected.index is None:
            data = storage.read(key)
            if data is None or digest_of(data) != expected.blake2b:
                state = "is missing" if data is None else "was changed after the build"
                raise DataError(f"{storage.location}: {key} {state}. {REBUILD}")


def remedy(storage: Storage, info: StoreInfo, file: str) -> str:
    """The next step after damage in `file`, which may be quarantined already."""
    try:
        known = read_quarantine(storage, info.fingerprint)
    except DataError:  # of another store, or unreadable
        known = None
    if known is None or not known.holds(file):
        return REBUILD
    return f"What is damaged in it is quarantined: data.damaged=pad reads that as padding. Or: {REBUILD}"


def root_attributes(storage: Storage) -> dict[str, Any]:
    """Read the attributes of the root group; empty if the store has no `zarr.json`.

    Raises:
        DataError: it is not a Zarr v3 group.
    """
    data = storage.read("zarr.json")
    try:
        root = {} if data is None else parse_json(data)
        if data is not None and (root["zarr_format"], root["node_type"]) != (3, "group"):
            raise ValueError("not a group")
        attributes = root.get("attributes", {})
        if not isinstance(attributes, dict):
            raise TypeError("attributes are not an object")
        return attributes
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{storage.location}: not a Zarr v3 group (zarr.json: {error}). {REBUILD}"
        ) from error


def unreadable(location: str, name: str, error: Exception) -> DataError:
    """The error for metadata that zarr-python refuses."""
    words = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{location}: {name} cannot be read by Zarr ({words:.200}). {REBUILD}")
