"""Is a store whole? Zarr itself reads a lost or empty shard as zeros, without a word."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tttscale.data.manifest import FORMAT, FORMAT_VERSION, StoreInfo, manifest_digest
from tttscale.data.staging import digest
from tttscale.errors import DataError

if TYPE_CHECKING:
    import zarr

REBUILD = "Build it again with `tttscale data build`, or fetch it again."


def parse_manifest(attributes: dict[str, Any], path: Path) -> StoreInfo:
    """The manifest in the root attributes of the group at `path`.

    Raises:
        DataError: The build did not end, or it is no token store, or of another version.
    """
    if attributes == {"complete": False}:
        raise DataError(f"data.store {path}: incomplete, its build was interrupted. {REBUILD}")
    if attributes.get("format") != FORMAT:
        raise DataError(
            f"data.store {path}: a Zarr group, but not a token store (no format {FORMAT!r} in its "
            "attributes). Give a folder made by `tttscale data build`."
        )
    version = attributes.get("format_version")
    if version != FORMAT_VERSION:
        raise DataError(
            f"data.store {path}: format version {version}, but this tttscale reads "
            f"{FORMAT_VERSION}. Use the tttscale that built it, or build it again."
        )
    fields = {key: value for key, value in attributes.items() if key != "digest"}
    if attributes.get("digest") != manifest_digest(fields):
        raise DataError(f"data.store {path}: its manifest was changed after the build. {REBUILD}")
    try:
        return StoreInfo.model_validate(fields)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        raise DataError(
            f"data.store {path}: bad manifest: {key}: {problem['msg']}. {REBUILD}"
        ) from error


def check_files(path: Path, info: StoreInfo) -> None:
    """Compares a store with its manifest: all sizes, and the digests of the small metadata.

    Raises:
        DataError: A file is missing, of another size, or metadata was changed.
    """
    for key, expected in info.files.items():
        check_size(path, info, key)
        if key.endswith("zarr.json") and digest(path / key) != expected.blake2b:
            raise DataError(f"{path}: {key} was changed after the build. {REBUILD}")


def check_size(path: Path, info: StoreInfo, key: str) -> None:
    """Checks that the file `key` of the store at `path` has the size that the manifest says.

    Raises:
        DataError: It is missing or of another size.
    """
    file = path / key
    expected, found = info.files.get(key), file.stat().st_size if file.is_file() else None
    if expected is None or found != expected.bytes:
        state = "is missing" if found is None else f"has {found} bytes"
        wanted = f"{expected.bytes} bytes" if expected else "there is none"
        raise DataError(f"{path}: {key} {state}, the manifest says {wanted}. {REBUILD}")


def first_damaged(array: "zarr.Array", begin: int, end: int) -> int:
    """First value of [begin, end) whose inner chunk does not read; `begin` if all do now."""
    chunk = array.chunks[0]
    for start in range(begin - begin % chunk, end, chunk):
        try:
            array[max(start, begin) : min(start + chunk, end)]
        except Exception:
            return max(start, begin)
    return begin
