"""The files of a store: in a folder, or in an object store behind a URL."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tttscale.errors import DataError
from tttscale.location import Location, LocationError
from tttscale.packages import needed
from tttscale.reading import read_bytes

if TYPE_CHECKING:
    import zarr
    from zarr.abc.store import Store

_LARGEST_BYTES = 4 << 30
"""The most that is read of one file; shards are far smaller."""
HINT = "Build it with `tttscale data build`, or correct the path."


def require_zarr() -> None:
    """Check before any work that Zarr can be imported.

    Raises:
        DataError: it is missing, or a library that it needs is.
    """
    with needed("zarr", "a token store", "Run `pip install 'zarr>=3.1.6'` (apt: libstdc++6)."):
        import zarr  # noqa: F401


class Storage(Protocol):
    """The files of one store, read-only; keys are paths inside it."""

    location: Location
    """Its place, as it may be shown."""

    def read(self, key: str) -> bytes | None:
        """Bytes of a file; None if there is none."""
        ...

    def sizes(self) -> dict[str, int] | None:
        """Bytes of every file; None where that needs a request per file."""
        ...

    def zarr_store(self) -> "Store":
        """The same files as a Zarr store."""
        ...


class Folder:
    """A store in the file system.

    Args:
        path: its folder.

    Raises:
        DataError: there is no such folder, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        with _readable():
            if not path.is_dir():
                found = "a file, not the folder of a store" if path.exists() else "no such folder"
                raise DataError(f"{path}: {found}. {HINT}")
        self.path, self.location = path, Location(str(path))

    def read(self, key: str) -> bytes | None:
        """Bytes of a file; None if there is none.

        Raises:
            DataError: it cannot be read.
        """
        path = self.path / key
        with _readable():
            try:
                return read_bytes(path, _LARGEST_BYTES)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def sizes(self) -> dict[str, int] | None:
        """Bytes of every file.

        Raises:
            DataError: a folder in it cannot be read.
        """
        with _readable():
            walked = os.walk(self.path, onerror=_refuse)
            paths = (Path(parent, name) for parent, _, names in walked for name in names)
            files = [path for path in paths if path.is_file()]
            return {path.relative_to(self.path).as_posix(): path.stat().st_size for path in files}

    def zarr_store(self) -> "Store":
        """A LocalStore."""
        from zarr.storage import LocalStore

        return LocalStore(self.path, read_only=True)


class Remote:
    """A store behind a URL: s3://, gs://, az://, http:// or https://, through obstore.

    Credentials and endpoints come from the environment (AWS_ENDPOINT, AWS_ACCESS_KEY_ID, ...), those of
    an http or https URL also from the URL; failed requests are repeated by obstore.

    Args:
        url: URL of the store's root.

    Raises:
        DataError: obstore is not installed, or the URL is of an unknown kind.
    """

    def __init__(self, url: Location) -> None:
        remedy = "Run `pip install obstore`, or in a checkout `pip install -e '.[remote]'`."
        with needed("obstore", f"{url}: reading from a URL", remedy):
            import obstore
        self.location = url
        self._obstore: Any = obstore
        access = url.reveal()
        options: Any = {"allow_http": True} if url.startswith("http://") else {}
        if access.headers:
            options["default_headers"] = access.headers
        # A URL with parameters, such as a signature, is for plain HTTP, whoever the server is.
        plain = access != (url, {})
        opened = obstore.store.HTTPStore.from_url if plain else obstore.store.from_url
        try:
            self._store = opened(access.url, client_options=options or None)
        except Exception as error:  # obstore has its own kinds for every back end
            raise DataError(f"{url}: {_first_line(error)}. {HINT}") from error

    def read(self, key: str) -> bytes | None:
        """Bytes of an object; None if there is none.

        Raises:
            DataError: the server does not answer, or refuses.
        """
        try:
            return bytes(self._obstore.get(self._store, key).bytes())
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._refusal(key, error) from error

    def sizes(self) -> dict[str, int] | None:
        """Bytes of every object from one listing; None for plain HTTP, which has no listings.

        Raises:
            DataError: the server does not answer, or refuses, for example where only reading is allowed.
        """
        if self.location.startswith(("http://", "https://")):
            return None
        try:
            listing = self._obstore.list(self._store)
            return {entry["path"]: entry["size"] for batch in listing for entry in batch}
        except Exception as error:
            raise self._refusal("listing its objects", error) from error

    def _refusal(self, what: str, error: Exception) -> DataError:
        return DataError(
            f"{self.location}: {what}: {_first_line(error)}. Check the URL, the network and the "
            "credentials in the environment, which must allow reading and listing; those in a URL are never "
            "stored, so name it with them again."
        )

    def zarr_store(self) -> "Store":
        """An ObjectStore."""
        from zarr.storage import ObjectStore

        return ObjectStore(self._store, read_only=True)


def open_storage(location: str | Path) -> Storage:
    """The folder or URL `location`.

    Raises:
        DataError: there is no such folder, or the URL cannot be used.
    """
    place = located(location)
    return Remote(place) if place.is_remote else Folder(Path(place))


def located(location: str | Path) -> Location:
    """Parse `location`; what may be shown of it has no credentials.

    Raises:
        DataError: it is not a path or URL.
    """
    try:
        return location if isinstance(location, Location) else Location.parse(str(location))
    except LocationError as error:
        raise DataError(f"{location}: {error}. {HINT}") from None


def open_array(location: str | Path, path: str) -> "zarr.Array":
    """The array at `path` in a store as zarr-python alone reads it, without any of our checks."""
    import zarr

    return zarr.open_array(open_storage(location).zarr_store(), path=path, mode="r")


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename}: {error.strerror}. What is in the store is unknown. Allow reading it, or "
            "correct the path."
        ) from error


def _refuse(error: OSError) -> None:
    """Raise what `os.walk` would ignore: it leaves out what it cannot read."""
    raise error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
