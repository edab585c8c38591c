"""The folder `checkpoints/` of a run: how a checkpoint appears, whole or not at all, and how it goes."""

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
"""The files that a checkpoint is made of, and what they are called while they are written."""


class CheckpointFolder:
    """Checkpoints of one run. Only one process writes here, though many write into `partial`.

    Nothing is removed but the files that we write, in a checkpoint that says of itself which step it is,
    or in what an attempt of ours has left. All else that is in the way is set aside under another name.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def steps(self) -> list[int]:
        """Steps of all checkpoints, the newest first; whether they are damaged is not looked at.

        Raises:
            OSError: the folder cannot be looked at.
        """
        if not self.root.is_dir():
            return []
        found = (self._step_of(path) for path in self.root.iterdir())
        return sorted((step for step in found if step is not None), reverse=True)

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or will be."""
        return self.root / f"step-{step}"

    def partial(self, step: int) -> Path:
        """Where it is written."""
        return self.root / f"step-{step}.partial"

    def probe(self) -> None:
        """Make the folder, and a file in it for a moment.

        Raises:
            OSError: the file system refused.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.root) as file:
            file.write(b"some")

    def prepare(self, step: int) -> None:
        """Make an empty `partial(step)`, and clear what a process that was killed has left.

        Raises:
            OSError: the file system refused.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for path in self.root.iterdir():
            if _LEFT.fullmatch(path.name):
                _clear(path)
        self._set_aside(self.partial(step))  # if somebody else's files were in it
        self.partial(step).mkdir()

    def commit(self, manifest: Manifest) -> None:
        """Let `partial` become the checkpoint; its files are on disk already.

        Raises:
            OSError: the file system refused; a checkpoint is whole or it is none.
        """
        partial, path = self.partial(manifest.step), self.path(manifest.step)
        for name, file in manifest.files.items():
            found = (partial / name).stat().st_size  # another host may have written it
            if found != file.bytes:
                raise OSError(f"{partial / name}: {found:,} bytes, {file.bytes:,} were written")
        with replaced(partial / MANIFEST) as file:
            file.write(manifest.render().encode())
        sync(partial)
        self._set_aside(path)  # a damaged one, or the run would have gone on from it
        partial.rename(path)
        sync(self.root)

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep` that are known to be this run's.

        Raises:
            OSError: the file system refused.
        """
        known = [step for step in self.steps() if self._is_known(step)]
        for step in known[keep:]:
            path = self.path(step)
            if path.is_symlink():  # what it leads to is somebody's archive
                path.unlink()
                continue
            # Under this name it is no checkpoint any more, however far the rest gets.
            going = path.with_name(f"{path.name}.removed")
            self._set_aside(going)
            path.rename(going)
            if not _clear(going):  # somebody keeps files of their own in it
                going.rename(path)

    def discard(self, step: int) -> None:
        """Remove what was written towards a checkpoint that will not be.

        Raises:
            OSError: the file system refused.
        """
        _clear(self.partial(step))

    def headless(self) -> list[int]:
        """Steps whose folder is there without its `checkpoint.json`, ascending: checkpoints once.

        Raises:
            OSError: the folder cannot be looked at.
        """
        if not self.root.is_dir():
            return []
        named = [path for path in self.root.iterdir() if _STEP.fullmatch(path.name)]
        return sorted(
            int(path.name.removeprefix("step-")) for path in named if self._step_of(path) is None
        )

    def set_aside(self, after: int) -> list[Path]:
        """Rename all checkpoints later than `after`: they are kept, and never gone on from.

        Returns:
            What they are called now.

        Raises:
            OSError: the file system refused.
        """
        return [self._set_aside(self.path(step)) for step in self.steps() if step > after]

    def _set_aside(self, path: Path) -> Path:
        if path.exists() or path.is_symlink():
            return path.rename(free_name(self.root / path.name.replace("step-", "set-aside-")))
        return path

    def _is_known(self, step: int) -> bool:
        try:
            return read_manifest(self.path(step)).step == step
        except CheckpointError:
            return False

    def _step_of(self, path: Path) -> int | None:
        match = _STEP.fullmatch(path.name)
        return int(match[1]) if match and (path / MANIFEST).is_file() else None


def _clear(folder: Path) -> bool:
    """Remove what we have written into a folder, and the folder; whether it is gone.

    A link is nothing that we have made, nor is anything under another name.
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
