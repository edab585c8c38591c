"""The folder in which a store grows until it is whole, one builder at a time."""

import fcntl
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tttscale.errors import DataError, DiskError, of_disk
from tttscale.files import open_end, remove, sync

_OURS = re.compile(r"(store|receipts)-\w+|runs|lock")
_OUR_SLICES = re.compile(r"\w+\.(tokens|npz)(\.partial-[0-9]+)?")
"""What a build calls its files."""


class Staging:
    """The folder OUT.building, in which a store grows until it is whole.

    Args:
        out: where the store will appear.

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
        """OUT.building."""
        self.tokenized = self.root / "runs"
        """The slices that are tokenized; builds of all versions call this folder so."""

    def store(self, plan: str) -> Path:
        """The store that will become `out` if the plan is still the one with this hash."""
        return self.root / f"store-{plan}"

    def receipts(self, plan: str) -> Path:
        """Receipts of the files that are whole in `store(plan)`."""
        return self.root / f"receipts-{plan}"

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            DataError: `out` exists, the folder is not of a build, or the disk refuses.
        """
        refuse_existing(self.out)
        self._refuse_others()
        with disk_errors(self.root):
            self.tokenized.mkdir(parents=True, exist_ok=True)

    def _refuse_others(self) -> None:
        """Refuse foreign files: at the end of a build the folder is removed with all that is in it."""
        with disk_errors(self.root):
            there = self.root.exists() or self.root.is_symlink()
            found = list(self.root.iterdir()) if self.root.is_dir() else []
            slices = list(self.tokenized.iterdir()) if self.tokenized.is_dir() else []
            strange = [path for path in found if not _OURS.fullmatch(path.name)]
            strange += [path for path in slices if not _OUR_SLICES.fullmatch(path.name)]
        if strange or (there and (self.root.is_symlink() or not self.root.is_dir())):
            raise DataError(
                f"OUT {self.out}: {strange[0] if strange else self.root} is not of a build, which clears "
                f"{self.root} when it is done. Move that away, or name another OUT."
            )

    def remove_others(self, plan: str, slices: set[str]) -> None:
        """Remove stores of other plans, other slices, and torn files."""
        keep = {self.store(plan), self.receipts(plan), self.tokenized, self.root / "lock"}
        for path in [*self.root.iterdir(), *self.tokenized.iterdir()]:
            if path in keep or (path.parent == self.tokenized and path.stem in slices):
                continue
            remove(path)

    def publish(self, plan: str) -> None:
        """Move the finished store to `out`, then remove what it was made of."""
        refuse_existing(self.out)
        sync(self.store(plan))
        self.store(plan).rename(self.out)
        sync(self.out.parent)
        remove(self.root)

    def discard_if_empty(self) -> None:
        """Remove the folder if no token was written: then a build has nothing to resume from."""
        if self.tokenized.is_dir() and not any(
            p.stat().st_size for p in self.tokenized.glob("*.tokens")
        ):
            remove(self.root)


@contextmanager
def locked(staging: Staging) -> Iterator[None]:
    """Keep other builders out of the folder; the system releases the lock of one that is killed.

    Raises:
        DataError: another process builds there.
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
    """Turn errors of the file system into one that says what to do.

    Raises:
        DiskError: the disk is full or fails.
        DataError: the file system refused.
    """
    try:
        yield
    except OSError as error:
        raise (DiskError if of_disk(error) else DataError)(
            f"building in {where}: {error}. Check space and permissions, then rerun the same "
            "command: it resumes from what is done."
        ) from error


def refuse_existing(out: Path) -> None:
    """Raise DataError if `out` exists."""
    if out.exists() or out.is_symlink():
        raise DataError(
            f"OUT {out}: already exists, and a build never overwrites. Name another OUT, or "
            "remove it first."
        )
