"""Saving and finding checkpoints on all ranks: either all of them take the next step, or none does."""

import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tttscale.comm.mesh import Mesh
from tttscale.config import Config, dump_config
from tttscale.data.provenance import write_provenance
from tttscale.data.windows.mixture import Mixture
from tttscale.errors import CheckpointError, NumericsError
from tttscale.files import Written, noting_digests, sync, write_text
from tttscale.model import TTTForCausalLM
from tttscale.observe import human
from tttscale.train import cpu_products
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
from tttscale.train.checkpoint.moments import MomentReader, write_moments
from tttscale.train.engine import Engine

_FAILURES = 3
"""So many saves in a row may fail before the run does."""
_BYTES_PER_PARAMETER = 12
"""Weight and two moments, fp32."""
_APPEARS_SECONDS = 20.0
"""So long a network file system may take to show another host a new folder."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that all ranks have found whole."""

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
    """What came of an attempt to save."""

    done: bool
    line: str
    """For people."""


class Checkpoints:
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
        self.remarks: list[str] = []
        """What `choose` passed over."""

    def due(self, step: int) -> bool:
        """Whether `checkpoint.every` asks for one after this step; the last step always has one."""
        every = self._config.checkpoint.every
        return every > 0 and (step % every == 0 or step == self._config.train.steps)

    def choose(self) -> Checkpoint | None:
        """What `checkpoint.resume` asks to go on from; None: from the beginning.

        Every file is read once, by one rank, and compared with what was written. With "auto" a damaged
        checkpoint is passed over for an older one; one that cannot be read just now is not.

        Raises:
            CheckpointError: the step that was asked for, or each one that there is, is damaged or missing;
                or a file cannot be read.
        """
        asked = self._config.checkpoint.resume
        if asked == "never":
            return None
        there = self._on_all(lambda: self._folder.steps() if self._mesh.rank == 0 else None)[0]
        if asked != "auto":
            if asked not in there:
                raise CheckpointError(
                    f"checkpoint.resume = {asked}: {self._folder.root} has {_listed(there)}. Name one of "
                    "them, or set checkpoint.resume=auto."
                )
            return self._whole(asked)
        for step in there:
            try:
                return self._whole(step)
            except DamagedError as error:
                self.remarks.append(f"{self._folder.path(step)} is passed over: {error}")
        if there:
            raise CheckpointError(
                f"{self._folder.root}: none of its checkpoints is whole; {'; '.join(self.remarks)}. Put the "
                "files back, or start anew under another run.name."
            )
        return None

    def save(
        self,
        step: int,
        tokens: int,
        model: TTTForCausalLM,
        engine: Engine,
        stores: Mixture,
        wandb_id: str | None,
    ) -> Saved:
        """Write a checkpoint, then remove those beyond `checkpoint.keep`.

        Args:
            step: steps done.
            tokens: with a loss so far.
            model: equal on all ranks.
            engine: its moments are spread over the ranks.
            stores: for data.json.
            wandb_id: rank 0's.

        Returns:
            What came of it. A disk that refuses is no error yet, since the next attempt may do better.

        Raises:
            CheckpointError: it was the third attempt in a row that failed.
            NumericsError: a weight or a moment is no finite number; nothing is written, on no rank.
            PeerError: another rank died.
        """
        first, began = self._mesh.rank == 0, time.perf_counter()
        self._check_finite(step, model, engine)
        try:
            self._on_all(lambda: self._folder.prepare(step) if first else None)
            files = self._on_all(lambda: self._write(step, model, engine, stores))
            manifest = Manifest(
                step=step,
                tokens=tokens,
                updates=engine.updates(),
                wandb_id=wandb_id,
                versions=versions() | cpu_products.as_version(model),
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
        """Find out early whether rank 0 may write checkpoints, and whether all ranks see them.

        Raises:
            CheckpointError: it may not, or one of them does not.
        """
        if self._config.checkpoint.every > 0:
            self._on_all(lambda: self._folder.probe() if self._mesh.rank == 0 else None)
            self._on_all(lambda: _await(self._folder.root))

    def set_aside_later(self, resumed: Checkpoint) -> list[str]:
        """Put checkpoints later than `resumed` out of the way, once nothing keeps the run back.

        Returns:
            Remarks on them.

        Raises:
            CheckpointError: the file system refused.
        """
        first, step = self._mesh.rank == 0, resumed.manifest.step
        later = self._on_all(
            lambda: [str(path) for path in self._folder.set_aside(step)] if first else []
        )[0]
        return [f"a checkpoint of a later step is kept as {path}" for path in later]

    def check_room(self, parameters: int, done: int) -> None:
        """Find out before the first step whether all checkpoints will fit on the disk.

        Args:
            parameters: of the model; each takes 12 bytes of a checkpoint.
            done: steps that are done already.

        Raises:
            CheckpointError: they will not.
        """
        to_come = sum(map(self.due, range(done + 1, self._config.train.steps + 1)))
        if to_come:
            first = self._mesh.rank == 0
            self._on_all(lambda: self._check_room(parameters, to_come) if first else None)

    def _check_room(self, parameters: int, to_come: int) -> None:
        root, keep = self._folder.root, self._config.checkpoint.keep
        free, size = shutil.disk_usage(root).free, parameters * _BYTES_PER_PARAMETER
        at_once = min(to_come, max(1, keep + 1 - len(self._folder.steps())))
        if free < at_once * size:
            raise CheckpointError(
                f"checkpoint.keep = {keep}: {at_once} more checkpoint(s) of {human(size, 1024)}B (for a "
                f"moment one more than is kept) do not fit into {root}, with {human(free, 1024)}B free. Make "
                "room, name another folder with run.dir=..., or set a smaller checkpoint.keep, or "
                "checkpoint.every=0."
            )

    def _whole(self, step: int) -> Checkpoint:
        """A checkpoint after all its files were read, each by one rank."""
        folder, mesh = self._folder.path(step), self._mesh

        def check() -> str:
            """Read this rank's part of the files; the manifest, for comparison."""
            _await(folder)
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

    def _check_finite(self, step: int, model: TTTForCausalLM, engine: Engine) -> None:
        """What nothing can be gone on with is not saved, and takes no good checkpoint's place."""
        tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
        for fragment in engine.fragments():
            names = {f"{kind} of {fragment.name}": m for kind, m in fragment.moments.items()}
            tensors |= {name: moment for name, moment in names.items() if moment.numel()}
        sizes = {n: torch.linalg.vector_norm(t, math.inf) for n, t in tensors.items()}
        bad = [name for name, size in sizes.items() if not math.isfinite(size)]
        found = sorted(filter(None, self._mesh.gather_texts(bad[0] if bad else "")))
        if found:
            raise NumericsError(
                f"step {step}: {found[0]} is not finite. No checkpoint is written of that.",
                step,
                sound=step - 1,
            )

    def _write(
        self, step: int, model: TTTForCausalLM, engine: Engine, stores: Mixture
    ) -> dict[str, Any]:
        """This rank's files, on disk; what they are."""
        partial, rank = self._folder.partial(step), self._mesh.rank
        _await(partial)
        names = []
        with noting_digests() as written:
            if fragments := engine.fragments():
                names.append(f"optimizer-{rank:05d}.safetensors")
                write_moments(partial / names[0], fragments)
            if rank == 0:
                model.save_pretrained(partial)
                write_text(partial / RUN_CONFIG, dump_config(self._config))
                write_provenance(partial, stores)
                names += ["model.safetensors", "config.json", RUN_CONFIG, "data.json"]
        for name in names:
            sync(partial / name)
        return {name: self._saved(partial / name, written).model_dump() for name in names}

    def _saved(self, path: Path, written: dict[Path, Written]) -> SavedFile:
        """What a file is to hold; where that was not noted while it was written, what it holds."""
        if (note := written.get(path)) is not None:
            return SavedFile(**note._asdict())
        return SavedFile.of(path)

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
                "same command goes on from the last checkpoint that is whole."
            )
        return Saved(
            False, f"WARNING: {what}; the run goes on, and the next one is tried as planned"
        )

    def _on_all(self, work: Callable[[], Any]) -> list[Any]:
        """Do something on every rank; what it gave on each of them (as JSON carries it).

        Raises:
            DamagedError: on all ranks, if it was raised on one.
            CheckpointError: the same, also if the file system refused something to one.
        """
        own: dict[str, Any] = {}
        try:
            own["result"] = work()
        except (OSError, CheckpointError) as error:
            own |= {"problem": str(error), "damaged": isinstance(error, DamagedError)}
        everything = [json.loads(text) for text in self._mesh.gather_texts(json.dumps(own))]
        for rank, row in enumerate(everything):
            if "problem" in row:
                where = f"rank {rank}: " if self._mesh.world_size > 1 else ""
                kind = DamagedError if row["damaged"] else CheckpointError
                raise kind(f"{where}{row['problem']}")
        return [row["result"] for row in everything]


def _await(folder: Path) -> None:
    """Wait until a folder that rank 0 made is seen here, too.

    Raises:
        CheckpointError: it is not; the hosts do not share it.
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
