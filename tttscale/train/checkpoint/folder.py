"""The folder `checkpoints/` of a run: a checkpoint appears, and is removed, as a whole or not at all."""

import re
import tempfile
from pathlib import Path

from tttscale.errors import CheckpointError
from tttscale.files import free_name, replaced, sync
from tttscale.train.checkpoint.manifest import FILE_PATTERN, MANIFEST, Manifest, read_manifest

_STEP = re.compile(r"step-([1-9][0-9]{0,17})")
_LEFT = re.compile(r"step-[1-9][0-9]{0,17}\.(partial|removed)")
_OURS = re.compile(
    rf"({FILE_PATTERN.strip('^$')}|{re.escape(MANIFEST)})(\.tmp-save|\.partial-[0-9]+)?"
)
"""Names of a checkpoint's files, also while they are written."""


class CheckpointFolder:
    """Checkpoints of one run. Only one process writes here, though many write into `partial`.

    Only files that we write are ever removed: in a checkpoint whose manifest names its step, or in what one
    of our attempts has left. All else that is in the way is renamed to `set-aside-*`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def steps(self) -> list[int]:
        """Return the steps of all checkpoints, the newest first, without looking for damage.

        Raises:
            OSError: the folder cannot be read.
        """
        if not self.root.is_dir():
            return []
        found = (self._step_of(path) for path in self.root.iterdir())
        return sorted((step for step in found if step is not None), reverse=True)

    def path(self, step: int) -> Path:
        """Return where the checkpoint of `step` is, or will be."""
        return self.root / f"step-{step}"

    def partial(self, step: int) -> Path:
        """Return where the checkpoint of `step` is written."""
        return self.root / f"step-{step}.partial"

    def probe(self) -> None:
        """Make the folder, and a file in it for a moment, to see whether that is possible.

        Raises:
            OSError: the file system refused.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.root) as file:
            file.write(b"some")

    def announce(self, step: int) -> None:
        """Make `partial(step)`, the sign that a save of this step has begun; steps after it may follow.

        Raises:
            OSError: the file system refused.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        self.partial(step).mkdir(exist_ok=True)

    def prepare(self, step: int) -> None:
        """Make an empty `partial(step)` if there is none, and clear what a killed process has left.

        Raises:
            OSError: the file system refused.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for path in self.root.iterdir():
            if _LEFT.fullmatch(path.name) and not self._is_announced(path, step):
                _clear(path)
        if not self._is_announced(self.partial(step), step):
            self._archive(self.partial(step))  # if other files than ours were in it
            self.partial(step).mkdir()

    def commit(self, manifest: Manifest) -> None:
        """Rename `partial` to the checkpoint; its files are on disk already.

        Raises:
            OSError: the file system refused; there is a whole checkpoint or none.
        """
        partial, path = self.partial(manifest.step), self.path(manifest.step)
        for name, file in manifest.files.items():
            found = (partial / name).stat().st_size  # another host may have written it
            if found != file.bytes:
                raise OSError(f"{partial / name}: {found:,} bytes, {file.bytes:,} were written")
        with replaced(partial / MANIFEST) as file:
            file.write(manifest.render().encode())
        sync(partial)
        self._archive(path)  # a damaged one, or the run would have resumed from it
        partial.rename(path)
        sync(self.root)

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` of those that are known to be this run's.

        Raises:
            OSError: the file system refused.
        """
        known = [step for step in self.steps() if self._is_known(step)]
        for step in known[keep:]:
            path = self.path(step)
            if path.is_symlink():  # what it leads to may be an archive
                path.unlink()
                continue
            # Under this name it is no checkpoint, even if we are killed while its files go.
            going = path.with_name(f"{path.name}.removed")
            self._archive(going)
            path.rename(going)
            if not _clear(going):  # there are other files than ours in it
                going.rename(path)

    def discard(self, step: int) -> None:
        """Remove what an attempt that failed has written.

        Raises:
            OSError: the file system refused.
        """
        _clear(self.partial(step))

    def headless(self) -> list[int]:
        """Return steps whose folder has lost its `checkpoint.json`, ascending.

        Raises:
            OSError: the folder cannot be read.
        """
        if not self.root.is_dir():
            return []
        named = [path for path in self.root.iterdir() if _STEP.fullmatch(path.name)]
        return sorted(
            int(path.name.removeprefix("step-")) for path in named if self._step_of(path) is None
        )

    def archive_after(self, step: int) -> list[Path]:
        """Rename all checkpoints later than `step`, so that they are kept and never resumed from.

        Returns:
            Their new paths.

        Raises:
            OSError: the file system refused.
        """
        return [self._archive(self.path(later)) for later in self.steps() if later > step]

    def _archive(self, path: Path) -> Path:
        if path.exists() or path.is_symlink():
            return path.rename(free_name(self.root / path.name.replace("step-", "set-aside-")))
        return path

    def _is_announced(self, path: Path, step: int) -> bool:
        """Return whether a path is a folder for `step` in which nothing is yet."""
        if path != self.partial(step) or path.is_symlink() or not path.is_dir():
            return False
        return next(path.iterdir(), None) is None

    def _is_known(self, step: int) -> bool:
        try:
            return read_manifest(self.path(step)).step == step
        except CheckpointError:
            return False

    def _step_of(self, path: Path) -> int | None:
        match = _STEP.fullmatch(path.name)
        return int(match[1]) if match and (path / MANIFEST).is_file() else None


def _clear(folder: Path) -> bool:
    """Remove the files that we have written into a folder, then the folder if it is empty.

    Links and other names are not ours and stay.

    Returns:
        Whether the folder is gone.
    """
    if folder.is_symlink() or not folder.is_dir():
        return False
    left = False
    for path in folder.iterdir():
        if _OURS.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink()
        else:
            left = True
    if not left:
        folder.rmdir()
    return not left
