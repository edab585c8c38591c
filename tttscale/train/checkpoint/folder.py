"""The folder `checkpoints/` of a run: how a checkpoint appears, whole or not at all, and how it goes."""

import re
import tempfile
from pathlib import Path

from tttscale.files import remove, replaced, sync
from tttscale.train.checkpoint.manifest import MANIFEST, Manifest

_STEP = re.compile(r"step-([1-9][0-9]{0,17})")
_PARTIAL = re.compile(r"step-[1-9][0-9]{0,17}\.partial")


class CheckpointFolder:
    """Checkpoints of one run. Only one process writes here, though many write into `partial`."""

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
            unfinished = _STEP.fullmatch(path.name) and not (path / MANIFEST).exists()
            if unfinished or _PARTIAL.fullmatch(path.name):
                remove(path)
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
        self._remove(path)  # a damaged one, or the run would have gone on from it
        partial.rename(path)
        sync(self.root)

    def prune(self, keep: int) -> None:
        """Remove all but the newest `keep`.

        Raises:
            OSError: the file system refused.
        """
        for step in self.steps()[keep:]:
            self._remove(self.path(step))

    def discard(self, step: int) -> None:
        """Remove what was written towards a checkpoint that will not be.

        Raises:
            OSError: the file system refused.
        """
        remove(self.partial(step))

    def set_aside(self, after: int) -> list[Path]:
        """Rename all checkpoints later than `after`: they are kept, and never gone on from.

        Returns:
            What they are called now.

        Raises:
            OSError: the file system refused.
        """
        renamed = []
        for step in self.steps():
            if step > after:
                number = 1
                while (target := self.root / f"set-aside-{step}-{number}").exists():
                    number += 1
                renamed.append(self.path(step).rename(target))
        return renamed

    def _remove(self, path: Path) -> None:
        """Without its manifest it is no checkpoint any more, however far the rest gets."""
        if not path.is_symlink():  # what it leads to is somebody's archive
            (path / MANIFEST).unlink(missing_ok=True)
        remove(path)

    def _step_of(self, path: Path) -> int | None:
        match = _STEP.fullmatch(path.name)
        return int(match[1]) if match and (path / MANIFEST).is_file() else None
