"""The folder in which a store grows until it is whole, one builder at a time."""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tttscale.errors import DataError
from tttscale.files import open_end, remove, sync

_OURS = re.compile(r"(store|receipts)-\w+|runs|lock")
_OUR_RUNS = re.compile(r"\w+\.(tokens|npz)(\.partial-[0-9]+)?")
"""What a build calls its files."""


class Staging:
    """The folder OUT.building, in which a store grows until it is whole.

    Attributes:
        out: Where the store will appear.
        root: OUT.building.
        runs: The tokens of the pieces that are done.

    Raises:
        DataError: `out` is a URL, or has no name.
    """

    def __init__(self, out: str | Path) -> None:
        if "://" in str(out):
            raise DataError(
                f"OUT {out}: a store is built in a folder, not behind a URL. Name a folder, and copy "
                "the store when it is complete."
            )
        self.out = Path(out)
        if self.out.name in ("", ".."):
            raise DataError(
                f"OUT {out}: not the name of a new folder. Name the folder to make, such as "
                f"{self.out / 'store'}."
            )
        self.root = self.out.with_name(self.out.name + ".building")
        self.runs = self.root / "runs"

    def store(self, layout: str) -> Path:
        """The store that will become `out`, if its layout stays what the hash `layout` stands for."""
        return self.root / f"store-{layout}"

    def receipts(self, layout: str) -> Path:
        """Notes of the files that are whole in `store(layout)`."""
        return self.root / f"receipts-{layout}"

    def prepare(self) -> None:
        """Makes the folder.

        Raises:
            DataError: `out` exists, the folder is no build's, or the disk refuses.
        """
        refuse_existing(self.out)
        self._refuse_others()
        with disk_errors(self.root):
            self.runs.mkdir(parents=True, exist_ok=True)

    def _refuse_others(self) -> None:
        """In the end the folder is removed with all that is in it, so nothing of anybody else may be."""
        with disk_errors(self.root):
            there = self.root.exists() or self.root.is_symlink()
            found = list(self.root.iterdir()) if self.root.is_dir() else []
            runs = list(self.runs.iterdir()) if self.runs.is_dir() else []
            strange = [path for path in found if not _OURS.fullmatch(path.name)]
            strange += [path for path in runs if not _OUR_RUNS.fullmatch(path.name)]
        if strange or (there and (self.root.is_symlink() or not self.root.is_dir())):
            raise DataError(
                f"OUT {self.out}: {strange[0] if strange else self.root} is not of a build, which clears "
                f"{self.root} when it is done. Move that away, or name another OUT."
            )

    def forget_others(self, layout: str, runs: set[str]) -> None:
        """Removes stores of other layouts, runs of other pieces, and torn files."""
        keep = {self.store(layout), self.receipts(layout), self.runs, self.root / "lock"}
        for path in [*self.root.iterdir(), *self.runs.iterdir()]:
            if path in keep or (path.parent == self.runs and path.stem in runs):
                continue
            remove(path)

    def publish(self, layout: str) -> None:
        """Lets the finished store appear at `out`, then removes what it was made of."""
        refuse_existing(self.out)
        sync(self.store(layout))
        self.store(layout).rename(self.out)
        sync(self.out.parent)
        remove(self.root)

    def discard_if_empty(self) -> None:
        """Removes the folder if no token was written: then there is nothing to go on from."""
        if self.runs.is_dir() and not any(p.stat().st_size for p in self.runs.glob("*.tokens")):
            remove(self.root)


@contextmanager
def locked(staging: Staging) -> Iterator[None]:
    """Keeps other builders out of the folder; the system takes the lock from one that is killed.

    Raises:
        DataError: Another process builds there.
    """
    with disk_errors(staging.root):
        file = open_end(staging.root / "lock")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"OUT {staging.out}: another process is building it in {staging.root}. Wait for "
                "it, or name another OUT."
            ) from error
        yield


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turns errors of the file system into one that says what to do.

    Raises:
        DataError: The file system refused.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"building in {where}: {error}. Check space and permissions, then rerun the same "
            "command: it goes on from what is done."
        ) from error


def refuse_existing(out: Path) -> None:
    """Raises DataError if there is anything at `out`."""
    if out.exists() or out.is_symlink():
        raise DataError(
            f"OUT {out}: already exists, and a build never overwrites. Name another OUT, or "
            "remove it first."
        )
