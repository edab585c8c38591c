"""Write a checkpoint on all ranks, in an order by which a crash at any moment leaves it whole or absent."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from tttscale.comm.aside import Gathers
from tttscale.comm.collective import on_all_ranks
from tttscale.config import Config, dump_config
from tttscale.data.provenance import write_provenance
from tttscale.errors import CheckpointError, NumericsError, TTTScaleError
from tttscale.files import Written, noting_digests, sync, write_text
from tttscale.model.pretrained import write_pretrained
from tttscale.tensors import write_tensors
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manifest import RUN_CONFIG, Manifest, SavedFile
from tttscale.train.checkpoint.snapshot import Snapshot

_APPEARS_SECONDS = 20.0
"""The longest that a network file system may take to show a new folder to another host."""
_COMMIT_SECONDS = 1.0
"""The longest that the end of a run waits for a rename that is under way."""


class Committed(NamedTuple):
    """A checkpoint that is there."""

    path: Path
    total_bytes: int
    seconds: float
    """That writing it took."""
    remark: str
    """What went wrong without harm to it; empty if nothing."""


class CheckpointWriter:
    """Writes snapshots, one after the other; all ranks call the same methods in the same order."""

    def __init__(self, config: Config, folder: CheckpointFolder, ranks: Gathers) -> None:
        """Write nothing yet.

        Args:
            config: of the run; goes into every checkpoint.
            folder: of the run's checkpoints, the same on all ranks.
            ranks: over which they agree; nothing else is sent there while a checkpoint is written.
        """
        self._config, self._folder, self._ranks = config, folder, ranks
        self._committing = Lock()
        self._given_up = False

    def reconfigure(self, config: Config) -> None:
        """Write this configuration from now on; nothing is being written."""
        self._config = config

    def write(self, snapshot: Snapshot, before_commit: Callable[[], None] | None) -> Committed:
        """Write a checkpoint, then remove those beyond `checkpoint.keep`.

        Args:
            snapshot: this rank's; its tensors do not change meanwhile.
            before_commit: called before the checkpoint gets its name.

        Raises:
            CheckpointError: it could not be written; on all ranks, and nothing of it is left.
            NumericsError: a weight or a moment is not finite; nothing is written, on any rank.
            PeerError: another rank died.
        """
        step, first, began = snapshot.step, self._ranks.rank == 0, time.perf_counter()
        self._check_finite(snapshot)
        try:
            self._on_all(lambda: self._folder.prepare(step) if first else None)
            files = self._on_all(lambda: self._write_files(snapshot))
            manifest = Manifest(
                step=step,
                tokens=snapshot.tokens,
                updates=snapshot.updates,
                wandb_id=snapshot.wandb_id,
                versions=snapshot.versions,
                files={k: SavedFile(**v) for written in files for k, v in written.items()},
            )
            self._on_all(lambda: self._commit(manifest, before_commit))
        except BaseException:
            if first:
                self._discard(step)
            raise
        remark, seconds = self._prune() if first else "", time.perf_counter() - began
        return Committed(self._folder.path(step), manifest.total_bytes, seconds, remark)

    def give_up(self, step: int) -> None:
        """Let what is being written come to nothing, unless it has its name already; this rank ends."""
        if self._committing.acquire(timeout=_COMMIT_SECONDS):
            self._given_up = True
            self._committing.release()
            self._discard(step)

    def _check_finite(self, snapshot: Snapshot) -> None:
        """Refuse a state that no run can resume from: it must not take a good checkpoint's place."""
        found = sorted(filter(None, self._ranks.gather_texts(snapshot.not_finite() or "")))
        if found:
            raise NumericsError(
                f"step {snapshot.step}: {found[0]} is not finite. No checkpoint is written of that.",
                snapshot.step,
                sound=snapshot.step - 1,
            )

    def _write_files(self, snapshot: Snapshot) -> dict[str, Any]:
        """Put this rank's files on disk; return their sizes and digests by name."""
        partial = self._folder.partial(snapshot.step)
        wait_for(partial)
        names = []
        with noting_digests() as written:
            if snapshot.moments:
                names.append(f"optimizer-{self._ranks.rank:05d}.safetensors")
                write_tensors(partial / names[0], snapshot.moments)
            if self._ranks.rank == 0:
                write_pretrained(partial, snapshot.architecture, snapshot.weights)
                write_text(partial / RUN_CONFIG, dump_config(self._config))
                write_provenance(partial, snapshot.stores)
                names += ["model.safetensors", "config.json", RUN_CONFIG, "data.json"]
        for name in names:
            sync(partial / name)
        return {name: _saved_file(partial / name, written).model_dump() for name in names}

    def _commit(self, manifest: Manifest, before_commit: Callable[[], None] | None) -> None:
        """Give the checkpoint its name; only rank 0 does."""
        if before_commit is not None:
            try:
                before_commit()
            except TTTScaleError as error:  # the records that it continues are not on disk
                raise CheckpointError(str(error)) from None
        if self._ranks.rank > 0:
            return
        with self._committing:
            if self._given_up:
                raise CheckpointError("the run ended meanwhile")
            self._folder.commit(manifest)

    def _discard(self, step: int) -> None:
        with suppress(OSError):  # the next attempt clears it
            self._folder.discard(step)

    def _prune(self) -> str:
        try:
            self._folder.prune(self._config.checkpoint.keep)
        except OSError as error:
            return f"; WARNING: older ones cannot be removed: {error}"
        return ""

    def _on_all(self, work: Callable[[], Any]) -> list[Any]:
        return on_all_ranks(self._ranks, work, CheckpointError)


def wait_for(folder: Path) -> None:
    """Wait until a folder that rank 0 made is seen by this rank, too.

    Raises:
        CheckpointError: it is not, so the hosts do not share it.
    """
    deadline = time.monotonic() + _APPEARS_SECONDS
    while not folder.is_dir():
        if time.monotonic() > deadline:
            raise CheckpointError(
                f"{folder}, which rank 0 made, is not seen here. With checkpoints run.dir has to be on a "
                "file system that all hosts share"
            )
        time.sleep(0.1)


def _saved_file(path: Path, written: dict[Path, Written]) -> SavedFile:
    """Return what was noted of a file while it was written, or else what it holds now."""
    if (note := written.get(path)) is not None:
        return SavedFile(**note._asdict())
    return SavedFile.of(path)
