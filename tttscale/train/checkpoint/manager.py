"""Save, find and validate checkpoints on all ranks: a stage succeeds on all of them, or fails on all."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from tttscale.codes import DISK
from tttscale.comm.aside import Aside, Gathers
from tttscale.comm.collective import on_all_ranks
from tttscale.comm.mesh import Mesh
from tttscale.config import Config
from tttscale.errors import CheckpointError, NumericsError
from tttscale.observe import human
from tttscale.supervise.page import waiting
from tttscale.train.checkpoint.background import done_now, in_background
from tttscale.train.checkpoint.disk_room import check_disk_room
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manifest import (
    MANIFEST,
    DamagedError,
    Manifest,
    check_file,
    read_manifest,
)
from tttscale.train.checkpoint.optimizer_state import MomentReader
from tttscale.train.checkpoint.snapshot import HostCopy, Snapshot, TrainingState
from tttscale.train.checkpoint.writer import CheckpointWriter, Committed, wait_for
from tttscale.train.engine import Engine

T = TypeVar("T")

_FAILURES = 3
"""Saves in a row that fail before the run does."""
_LOST_SECONDS = 3.0
"""The longest that a run which ends by an error waits for a save; other ranks may be gone."""
_BESIDE = "; the step waited {:.2g} s"
_NO_ROOM = "; the step waited {:.2g} s, as too little memory is free for a copy"


class NotSavedError(CheckpointError):
    """Checkpoints could not be written again and again; the disk is full or fails."""

    exit_code = DISK.number


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files were all read and compared with what was written."""

    folder: Path
    manifest: Manifest

    def restore(self, engine: Engine) -> None:
        """Fill the optimizer of a model that was loaded from `folder`.

        Raises:
            CheckpointError: the moments are of another model.
        """
        names = [name for name in self.manifest.files if name.startswith("optimizer-")]
        reader = MomentReader([self.folder / name for name in names])
        engine.restore(self.manifest.updates, reader.fill)


class Saved(NamedTuple):
    """The outcome of an attempt to save."""

    step: int
    done: bool
    line: str
    """For the console."""


@dataclass(frozen=True)
class _UnderWay:
    """A save in the background."""

    step: int
    future: "Future[Committed]"
    held_seconds: float
    """For which the step waited."""
    how: str
    """A text with these seconds for the console."""


class CheckpointManager:
    """The checkpoints of a run; all ranks call the same methods in the same order."""

    def __init__(self, config: Config, mesh: Mesh, run_folder: Path, local_ranks: int = 1) -> None:
        """Agree on rank 0's folder, and make the group for saves in the background.

        Args:
            config: `checkpoint.*` decides.
            mesh: all ranks.
            run_folder: RUNDIR/NAME.
            local_ranks: ranks of this host.
        """
        self._config, self._mesh = config, mesh
        root = mesh.gather_texts(str((run_folder / "checkpoints").absolute()))[0]
        self._folder = CheckpointFolder(Path(root))
        saves = config.checkpoint.every > 0 and config.checkpoint.background
        ranks: Gathers = Aside(mesh, "checkpoints") if saves else mesh
        self._writer = CheckpointWriter(config, self._folder, ranks)
        self._copy = HostCopy(local_ranks)
        self._under_way: _UnderWay | None = None
        self._failures = 0  # in a row
        self._said_overtaken = False
        self.notices: list[str] = []
        """Which checkpoints `find` skipped, and why."""

    def due(self, step: int) -> bool:
        """Return whether `checkpoint.every` asks for one after this step; the last step always has one."""
        every = self._config.checkpoint.every
        return every > 0 and (step % every == 0 or step == self._config.train.steps)

    def find(self) -> Checkpoint | None:
        """Find the checkpoint that `checkpoint.resume` asks for; None: start from the first step.

        Every file is read once, by one rank, and compared with what was written. With "auto" a damaged
        checkpoint is skipped for an older one; one that cannot be read just now is an error.

        Raises:
            CheckpointError: the checkpoint that was asked for is damaged or missing, or all are damaged, or
                a file cannot be read.
        """
        asked = self._config.checkpoint.resume
        if asked == "never":
            return None
        there = self._on_all(lambda: self._folder.steps() if self._mesh.rank == 0 else [])[0]
        if asked != "auto":
            if asked not in there:
                raise CheckpointError(
                    f"checkpoint.resume = {asked}: {self._folder.root} has {_listed(there)}. Name one of "
                    "them, or set checkpoint.resume=auto."
                )
            return self._validated(asked)
        for step in there:
            try:
                return self._validated(step)
            except DamagedError as error:
                self.notices.append(f"{self._folder.path(step)} is skipped: {error}")
        if there:
            raise CheckpointError(
                f"{self._folder.root}: none of its checkpoints is whole; {'; '.join(self.notices)}. Put the "
                "files back, or start again under another run.name."
            )
        return None

    def find_sound(self, step: int) -> Checkpoint | None:
        """Find the newest whole checkpoint of at most `step`, to roll back to; None: there is none.

        Raises:
            CheckpointError: one cannot be read just now.
        """
        there = self._on_all(lambda: self._folder.steps() if self._mesh.rank == 0 else [])[0]
        for each in there:
            if each <= step:
                with suppress(DamagedError):
                    return self._validated(each)
        return None

    def reconfigure(self, config: Config) -> None:
        """Save this configuration from now on; it differs in the data that is left out."""
        self._config = config
        self._writer.reconfigure(config)

    def save(self, state: TrainingState, before_commit: Callable[[], None] | None = None) -> Saved:
        """Write a checkpoint, then remove those beyond `checkpoint.keep`; none is under way.

        Args:
            state: of the run.
            before_commit: called before the checkpoint gets its name, such as to sync its records.

        Returns:
            The outcome. A disk that refuses is no error yet, since the next attempt may succeed.

        Raises:
            NotSavedError: the third attempt in a row failed.
            NumericsError: a weight or a moment is not finite; nothing is written, on any rank.
            PeerError: another rank died.
        """
        self._start(state, before_commit, beside=False)
        saved = self.settle()
        assert saved is not None
        return saved

    def make_room(self, state: TrainingState) -> None:
        """Get the memory for copies ready, in the background; the first save is then as short as any."""
        section = self._config.checkpoint
        if section.background and section.every > 0:
            self._copy.make_room(Snapshot.of(state, self._mesh.rank))

    def begin(
        self, state: TrainingState, before_commit: Callable[[], None] | None = None
    ) -> Saved | None:
        """Copy what a checkpoint holds, and write it in the background; none is under way.

        With `checkpoint.background: false` this is `save`. A rank that has no memory for its copy writes its
        part before this returns; what became of it is learned from `settle` all the same.

        Returns:
            None: it is under way. Otherwise the outcome.

        Raises:
            NotSavedError: as in `save`.
            NumericsError: as in `save`.
            PeerError: as in `save`.
        """
        if not self._config.checkpoint.background:
            return self.save(state, before_commit)
        self._start(state, before_commit, beside=True)
        return None

    def _start(
        self, state: TrainingState, before_commit: Callable[[], None] | None, beside: bool
    ) -> None:
        assert self._under_way is None, "one save at a time"
        began = time.perf_counter()
        snapshot = Snapshot.of(state, self._mesh.rank)
        copy = self._copy.take(snapshot) if beside else None
        if copy is None:
            future = done_now(lambda: self._writer.write(snapshot, before_commit))
        else:
            if self._mesh.rank == 0:
                with suppress(OSError):  # the writer meets it again, and says it
                    self._folder.announce(state.step)
            future = in_background(lambda: self._writer.write(copy, before_commit), "checkpoint")
        how = "" if not beside else _NO_ROOM if copy is None else _BESIDE
        self._under_way = _UnderWay(state.step, future, time.perf_counter() - began, how)

    def ended(self) -> bool:
        """Return whether a save was begun, has ended on this rank, and waits to be `settled`.

        Raises:
            Exception: what is no failure to save has ended it, on this rank alone.
        """
        if self._under_way is None or not self._under_way.future.done():
            return False
        error = self._under_way.future.exception()
        if error is not None and not isinstance(error, CheckpointError | NumericsError):
            self._under_way = None
            raise error
        return True

    def settle(self) -> Saved | None:
        """Wait until no save is under way; all ranks call this after the same step.

        Returns:
            The outcome of one that was; None: there was none.

        Raises:
            NotSavedError: as in `save`.
            NumericsError: as in `save`.
            PeerError: as in `save`.
        """
        under_way, self._under_way = self._under_way, None
        return None if under_way is None else self._outcome(under_way)

    def overtaken(self, step: int) -> str | None:
        """Return a line, once, if one save is still under way when the next is due."""
        under_way = self._under_way
        if under_way is None or under_way.future.done() or self._said_overtaken:
            return None
        self._said_overtaken = True
        return (
            f"the checkpoint after step {under_way.step} is still being written, and that after step {step} "
            "is due: the step waits for it. A larger checkpoint.every or a faster disk avoids that"
        )

    @contextmanager
    def finished(self, report: Callable[[Saved], None]) -> Iterator[None]:
        """See to it that no save is under way when the block is left by an error.

        What was copied before the error is sound, so that it is still written: whatever time that takes
        after a NumericsError, which all ranks raise together and may roll back from, or else within seconds.

        Args:
            report: takes the outcome, if there was one.
        """
        try:
            yield
        except BaseException as error:
            saved = self._last_words(None if isinstance(error, NumericsError) else _LOST_SECONDS)
            if saved is not None:
                report(saved)
            raise

    def _last_words(self, seconds: float | None) -> Saved | None:
        """Wait for a save that is under way, or let it come to nothing; return its outcome if it had one."""
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return None
        with waiting():  # the phase stays that of the error
            done = wait([under_way.future], seconds).done
        if not done:
            if self._mesh.rank == 0:
                self._writer.give_up(under_way.step)
            return None
        error = under_way.future.exception()
        if error is not None and not isinstance(error, CheckpointError):
            return None  # such as the end of another rank, which is no news
        try:
            return self._outcome(under_way)
        except NotSavedError as third:  # the run ends anyway
            return Saved(under_way.step, False, f"WARNING: {third}")

    def check_folder(self) -> None:
        """Check before training that rank 0 may write checkpoints and that all ranks see them.

        Raises:
            CheckpointError: rank 0 may not, or another rank does not see them.
        """
        if self._config.checkpoint.every > 0:
            self._on_all(lambda: self._folder.probe() if self._mesh.rank == 0 else None)
            self._on_all(lambda: wait_for(self._folder.root))

    def archive_later(self, resumed: Checkpoint) -> list[str]:
        """Rename checkpoints later than `resumed`, so that they are kept and never resumed from.

        Returns:
            Notices of where each was moved.

        Raises:
            CheckpointError: the file system refused.
        """
        first, step = self._mesh.rank == 0, resumed.manifest.step
        later = self._on_all(
            lambda: [str(path) for path in self._folder.archive_after(step)] if first else []
        )[0]
        return [f"a checkpoint of a later step was moved to {path}" for path in later]

    def check_room(self, parameters: int, done: int) -> None:
        """Check before the first step that all checkpoints will fit on the disk.

        Args:
            parameters: of the model.
            done: steps done already.

        Raises:
            CheckpointError: they do not fit.
        """
        first, keep = self._mesh.rank == 0, self._config.checkpoint.keep
        to_come = sum(map(self.due, range(done + 1, self._config.train.steps + 1)))
        if to_come:
            self._on_all(
                lambda: check_disk_room(self._folder, parameters, to_come, keep) if first else None
            )

    def _validated(self, step: int) -> Checkpoint:
        """Return a checkpoint after all its files were read, each by one rank."""
        folder, mesh = self._folder.path(step), self._mesh

        def check() -> str:
            """Read this rank's part of the files; return the manifest, for comparison."""
            wait_for(folder)
            manifest = read_manifest(folder)
            if manifest.step != step:
                raise DamagedError(f"{folder / MANIFEST} is that of step {manifest.step}")
            for name in sorted(manifest.files)[mesh.rank :: mesh.world_size]:
                check_file(folder / name, manifest.files[name])
            return manifest.render()

        texts = self._on_all(check)
        if any(text != texts[0] for text in texts):
            raise CheckpointError(f"{folder}: ranks see different files there")
        return Checkpoint(folder, read_manifest(folder))

    def _outcome(self, attempt: _UnderWay) -> Saved:
        """Wait for an attempt to end; return what came of it."""
        try:
            with waiting():  # for the disk, and for the ranks that write more
                done = attempt.future.result()
        except CheckpointError as error:
            return self._failed(attempt.step, error)
        self._failures = 0
        size, how = human(done.total_bytes, 1024), attempt.how.format(attempt.held_seconds)
        line = f"checkpoint: {done.path} ({size}B in {done.seconds:.2g} s{how}){done.remark}"
        return Saved(attempt.step, True, line)

    def _failed(self, step: int, error: CheckpointError) -> Saved:
        what = f"the checkpoint after step {step} could not be written: {error}"
        if step == self._config.train.steps:
            then = "the final weights are written all the same"
            return Saved(step, False, f"WARNING: {what}; {then}")
        if not self.due(step):  # asked for by a signal
            return Saved(step, False, f"WARNING: {what}; it is tried again after the next step")
        self._failures += 1
        if self._failures == _FAILURES:
            raise NotSavedError(
                f"{what}. It is the third in a row. Make room, or set checkpoint.every=0 to do without; the "
                "same command resumes from the last checkpoint that is whole."
            )
        then = "the run continues, and the next one is tried as planned"
        return Saved(step, False, f"WARNING: {what}; {then}")

    def _on_all(self, work: Callable[[], T]) -> list[T]:
        """Call `work` on every rank; return all results, or raise one rank's error on all ranks.

        Raises:
            DamagedError: a file is not what was written.
            CheckpointError: any other, also where the file system refused.
        """
        return on_all_ranks(self._mesh, work, DamagedError, CheckpointError)


def _listed(steps: list[int]) -> str:
    if not steps:
        return "no checkpoint"
    return f"checkpoints of steps {', '.join(map(str, sorted(steps)))}"
