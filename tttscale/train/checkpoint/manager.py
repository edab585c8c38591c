"""Save, find and validate checkpoints on all ranks: a stage succeeds on all of them, or fails on all."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from tttscale.comm.collective import on_all_ranks
from tttscale.comm.mesh import Mesh
from tttscale.config import Config, dump_config
from tttscale.data.provenance import write_provenance
from tttscale.data.windows.mixture import Mixture
from tttscale.errors import CheckpointError, NumericsError
from tttscale.files import Written, noting_digests, sync, write_text
from tttscale.model import TTTForCausalLM
from tttscale.observe import human
from tttscale.train import cpu_products
from tttscale.train.checkpoint.disk_room import check_disk_room
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manifest import (
    MANIFEST,
    RUN_CONFIG,
    DamagedError,
    Manifest,
    SavedFile,
    check_file,
    read_manifest,
    versions,
)
from tttscale.train.checkpoint.optimizer_state import MomentReader, write_moments
from tttscale.train.engine import Engine

T = TypeVar("T")

_FAILURES = 3
"""Saves in a row that fail before the run does."""
_APPEARS_SECONDS = 20.0
"""The longest that a network file system may take to show a new folder to another host."""


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


@dataclass(frozen=True)
class TrainingState:
    """All that a checkpoint saves of a run."""

    step: int
    """Steps done."""
    tokens: int
    """Tokens with a loss so far."""
    model: TTTForCausalLM
    """Weights, equal on all ranks."""
    engine: Engine
    """AdamW's moments, each rank its share."""
    stores: Mixture
    """The stores, for data.json."""
    wandb_id: str | None
    """The id by which wandb knows the run; rank 0's counts."""


class Saved(NamedTuple):
    """The outcome of an attempt to save."""

    done: bool
    line: str
    """For the console."""


class CheckpointManager:
    """The checkpoints of a run; all ranks call the same methods in the same order."""

    def __init__(self, config: Config, mesh: Mesh, run_folder: Path) -> None:
        """Agree on rank 0's folder.

        Args:
            config: `checkpoint.*` decides.
            mesh: all ranks.
            run_folder: RUNDIR/NAME.
        """
        self._config, self._mesh = config, mesh
        root = mesh.gather_texts(str((run_folder / "checkpoints").absolute()))[0]
        self._folder = CheckpointFolder(Path(root))
        self._failures = 0  # in a row
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

    def save(self, state: TrainingState) -> Saved:
        """Write a checkpoint, then remove those beyond `checkpoint.keep`.

        Returns:
            The outcome. A disk that refuses is no error yet, since the next attempt may succeed.

        Raises:
            CheckpointError: the third attempt in a row failed.
            NumericsError: a weight or a moment is not finite; nothing is written, on any rank.
            PeerError: another rank died.
        """
        step, first, began = state.step, self._mesh.rank == 0, time.perf_counter()
        self._check_finite(state)
        try:
            self._on_all(lambda: self._folder.prepare(step) if first else None)
            files = self._on_all(lambda: self._write(state))
            manifest = Manifest(
                step=step,
                tokens=state.tokens,
                updates=state.engine.updates(),
                wandb_id=state.wandb_id,
                versions=versions() | cpu_products.as_version(state.model),
                files={k: SavedFile(**v) for written in files for k, v in written.items()},
            )
            self._on_all(lambda: self._folder.commit(manifest) if first else None)
        except CheckpointError as error:
            return self._failed(step, error)
        self._failures = 0
        size, seconds = human(manifest.total_bytes, 1024), time.perf_counter() - began
        line = f"checkpoint: {self._folder.path(step)} ({size}B in {seconds:.2g} s)"
        return Saved(True, line + (self._prune() if first else ""))

    def check_folder(self) -> None:
        """Check before training that rank 0 may write checkpoints and that all ranks see them.

        Raises:
            CheckpointError: rank 0 may not, or another rank does not see them.
        """
        if self._config.checkpoint.every > 0:
            self._on_all(lambda: self._folder.probe() if self._mesh.rank == 0 else None)
            self._on_all(lambda: _wait_for(self._folder.root))

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
            _wait_for(folder)
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

    def _check_finite(self, state: TrainingState) -> None:
        """Refuse a state that no run can resume from: it must not take a good checkpoint's place."""
        tensors = {name: parameter.detach() for name, parameter in state.model.named_parameters()}
        for fragment in state.engine.fragments():
            names = {f"{kind} of {fragment.name}": m for kind, m in fragment.moments.items()}
            tensors |= {name: moment for name, moment in names.items() if moment.numel()}
        sizes = {n: torch.linalg.vector_norm(t, math.inf) for n, t in tensors.items()}
        bad = [name for name, size in sizes.items() if not math.isfinite(size)]
        found = sorted(filter(None, self._mesh.gather_texts(bad[0] if bad else "")))
        if found:
            raise NumericsError(
                f"step {state.step}: {found[0]} is not finite. No checkpoint is written of that.",
                state.step,
                sound=state.step - 1,
            )

    def _write(self, state: TrainingState) -> dict[str, Any]:
        """Put this rank's files on disk; return their sizes and digests by name."""
        partial, rank = self._folder.partial(state.step), self._mesh.rank
        _wait_for(partial)
        names = []
        with noting_digests() as written:
            if fragments := state.engine.fragments():
                names.append(f"optimizer-{rank:05d}.safetensors")
                write_moments(partial / names[0], fragments)
            if rank == 0:
                state.model.save_pretrained(partial)
                write_text(partial / RUN_CONFIG, dump_config(self._config))
                write_provenance(partial, state.stores)
                names += ["model.safetensors", "config.json", RUN_CONFIG, "data.json"]
        for name in names:
            sync(partial / name)
        return {name: _saved_file(partial / name, written).model_dump() for name in names}

    def _prune(self) -> str:
        try:
            self._folder.prune(self._config.checkpoint.keep)
        except OSError as error:
            return f"; WARNING: older ones cannot be removed: {error}"
        return ""

    def _failed(self, step: int, error: CheckpointError) -> Saved:
        if self._mesh.rank == 0:
            with suppress(OSError):  # the next attempt clears it
                self._folder.discard(step)
        what = f"the checkpoint after step {step} could not be written: {error}"
        if step == self._config.train.steps:
            return Saved(False, f"WARNING: {what}; the final weights are written all the same")
        if not self.due(step):  # asked for by a signal
            return Saved(False, f"WARNING: {what}; it is tried again after the next step")
        self._failures += 1
        if self._failures == _FAILURES:
            raise CheckpointError(
                f"{what}. It is the third in a row. Make room, or set checkpoint.every=0 to do without; the "
                "same command resumes from the last checkpoint that is whole."
            )
        return Saved(
            False, f"WARNING: {what}; the run continues, and the next one is tried as planned"
        )

    def _on_all(self, work: Callable[[], T]) -> list[T]:
        """Call `work` on every rank; return all results, or raise one rank's error on all ranks.

        Raises:
            DamagedError: a file is not what was written.
            CheckpointError: any other, also where the file system refused.
        """
        return on_all_ranks(self._mesh, work, DamagedError, CheckpointError)


def _saved_file(path: Path, written: dict[Path, Written]) -> SavedFile:
    """Return what was noted of a file while it was written, or else what it holds now."""
    if (note := written.get(path)) is not None:
        return SavedFile(**note._asdict())
    return SavedFile.of(path)


def _wait_for(folder: Path) -> None:
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


def _listed(steps: list[int]) -> str:
    if not steps:
        return "no checkpoint"
    return f"checkpoints of steps {', '.join(map(str, sorted(steps)))}"
