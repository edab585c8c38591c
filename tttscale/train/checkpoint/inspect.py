"""What the checkpoints of a run are, read from its folder alone: no torch, and nothing is changed."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tttscale.config import Config, flat_keys, load_config
from tttscale.errors import CheckpointError, ConfigError, DataError
from tttscale.observe.metrics import read_metrics
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manifest import (
    MANIFEST,
    RUN_CONFIG,
    Manifest,
    check_file,
    read_manifest,
    versions,
)

_FOLDER = "checkpoints"
_PARTS = ("config.yaml", "metrics.jsonl", _FOLDER)
"""One of these is in every folder of a run."""


@dataclass(frozen=True)
class Listed:
    """A checkpoint, as a list shows it."""

    step: int
    path: str
    written_at: float | None
    """Seconds since 1970; None: it has no manifest."""
    size_bytes: int | None
    tokens: int | None
    loss: float | None
    """Loss of the step, nats per token; None if metrics.jsonl does not say."""
    problem: str | None
    """What is wrong by names and sizes; contents are not read."""


@dataclass(frozen=True)
class Shown:
    """All that is known of one checkpoint."""

    listed: Listed
    updates: int
    wandb_id: str | None
    files: dict[str, int]
    """Bytes by name."""
    optimizer_ranks: int
    """Ranks that wrote a share of the optimizer's moments."""
    zero_stage: int | None
    parallel: dict[str, Any]
    """The keys of `parallel` then; empty if its config.yaml cannot be read."""
    versions: dict[str, str]
    versions_now: dict[str, str]
    """Those of this machine that differ."""
    changed: dict[str, tuple[str | None, str | None]]
    """Key -> its value then and in the run's config.yaml now, as JSON; None where it is unset."""
    notes: list[str]
    """What could not be compared."""


@dataclass(frozen=True)
class Verified:
    """A checkpoint whose files were all read."""

    step: int
    path: str
    size_bytes: int
    problems: list[str]
    """Each names a file; empty: it is whole."""


class RunCheckpoints:
    """The checkpoints of one run."""

    def __init__(self, run: Path) -> None:
        """Look for the folder.

        Args:
            run: RUNDIR/NAME.

        Raises:
            CheckpointError: it is no run's folder, or cannot be read.
        """
        if (run / MANIFEST).exists() or not any((run / name).exists() for name in _PARTS):
            raise CheckpointError(_no_run(run))
        self._run, self._folder = run, CheckpointFolder(run / _FOLDER)
        try:
            whole, headless = self._folder.steps(), self._folder.headless()
            self.unfinished = sorted(p.name for p in self._folder.root.glob("step-*.partial"))
        except OSError as error:
            raise CheckpointError(f"{self._folder.root}: {error.strerror or error}") from None
        self._headless = set(headless)
        self.steps = sorted([*whole, *headless])
        """Ascending."""

    def listed(self) -> list[Listed]:
        """Return all of them, by step."""
        losses = self._losses() if self.steps else {}
        return [self._listed(step, losses) for step in self.steps]

    def shown(self, step: int | None) -> Shown:
        """Return what is known of one.

        Args:
            step: None: the newest.

        Raises:
            CheckpointError: there is no such checkpoint, or its manifest cannot be read.
        """
        step = self._chosen(step)
        folder = self._folder.path(step)
        manifest, notes = _manifest(folder), list[str]()
        then, now = (self._config(path, notes) for path in (folder, self._run))
        keys = [dict(flat_keys(c.model_dump(mode="json"))) if c else {} for c in (then, now)]
        here = versions()
        return Shown(
            listed=self._listed(step, self._losses()),
            updates=manifest.updates,
            wandb_id=manifest.wandb_id,
            files={name: file.bytes for name, file in manifest.files.items()},
            optimizer_ranks=sum(name.startswith("optimizer-") for name in manifest.files),
            zero_stage=then.zero.stage if then else None,
            parallel=then.parallel.model_dump(mode="json") if then else {},
            versions=manifest.versions,
            versions_now={n: v for n, v in here.items() if manifest.versions.get(n) != v},
            changed={
                key: (keys[0].get(key), keys[1].get(key))
                for key in {**keys[0], **keys[1]}
                if all(keys) and keys[0].get(key) != keys[1].get(key)
            },
            notes=notes,
        )

    def verified(
        self, step: int | None, every: bool, progress: Callable[[int, int], None]
    ) -> list[Verified]:
        """Read every file of one checkpoint, or of all, and compare it with its digest.

        Args:
            step: None: the newest.
            every: all of them.
            progress: told the bytes that are read and those of all.

        Raises:
            CheckpointError: there is no such checkpoint.
        """
        steps = self.steps if every and self.steps else [self._chosen(step)]
        found: dict[int, Manifest | str] = {}
        for number in steps:
            try:
                found[number] = _manifest(self._folder.path(number))
            except CheckpointError as error:
                found[number] = str(error)
        total = sum(m.total_bytes for m in found.values() if isinstance(m, Manifest))
        done, results = 0, []
        for number, manifest in found.items():
            path, problems = self._folder.path(number), list[str]()
            if isinstance(manifest, str):
                results.append(Verified(number, str(path), 0, [manifest]))
                continue
            if manifest.step != number:
                problems.append(f"{path / MANIFEST} is that of step {manifest.step}")
            for name, file in manifest.files.items():
                try:
                    check_file(path / name, file)
                except CheckpointError as error:
                    problems.append(str(error))
                except OSError as error:
                    problems.append(f"{path / name}: {error.strerror or error}")
                done += file.bytes
                progress(done, total)
            results.append(Verified(number, str(path), manifest.total_bytes, problems))
        return results

    def _listed(self, step: int, losses: dict[int, float]) -> Listed:
        path = self._folder.path(step)
        try:
            manifest, problem = _manifest(path), None
        except CheckpointError as error:
            manifest, problem = None, str(error)
        written = None
        with suppress(OSError):
            written = (path / MANIFEST).stat().st_mtime
        if manifest is not None:
            problem = _cheap_problem(path, step, manifest)
        return Listed(
            step=step,
            path=str(path),
            written_at=written,
            size_bytes=manifest.total_bytes if manifest else None,
            tokens=manifest.tokens if manifest else None,
            loss=losses.get(step),
            problem=problem,
        )

    def _chosen(self, step: int | None) -> int:
        """Return the step that was asked for.

        Raises:
            CheckpointError: it is not there.
        """
        if not self.steps:
            raise CheckpointError(
                f"{self._run} has no checkpoint. A run writes them with checkpoint.every=N."
            )
        if step is None:
            return self.steps[-1]
        if step not in self.steps:
            there = ", ".join(map(str, self.steps))
            raise CheckpointError(
                f"--step {step}: {self._folder.root} has checkpoints of steps {there}. Name one of them."
            )
        return step

    def _config(self, folder: Path, notes: list[str]) -> Config | None:
        try:
            return load_config(folder / RUN_CONFIG)
        except ConfigError as error:
            notes.append(f"configurations are not compared: {error}")
            return None

    def _losses(self) -> dict[int, float]:
        """Return the loss of each step that metrics.jsonl knows."""
        try:
            records = read_metrics(self._run / "metrics.jsonl")
        except DataError:
            return {}
        return {r["step"]: r["loss"] for r in records if "step" in r and "loss" in r}


def as_json(found: "Listed | Shown | Verified") -> dict[str, Any]:
    """Return all fields, for JSON."""
    return asdict(found)


def shown_time(seconds: float | None) -> str:
    """Return a time for people, in this machine's zone."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _manifest(folder: Path) -> Manifest:
    """Read a manifest.

    Raises:
        CheckpointError: it is missing or damaged, of a newer version, or cannot be read.
    """
    try:
        return read_manifest(folder)
    except OSError as error:
        raise CheckpointError(f"{folder / MANIFEST}: {error.strerror or error}") from None


def _cheap_problem(folder: Path, step: int, manifest: Manifest) -> str | None:
    """Return what is wrong by names and sizes alone."""
    if manifest.step != step:
        return f"{folder / MANIFEST} is that of step {manifest.step}"
    for name, file in manifest.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
        except OSError as error:
            return f"{path}: {error.strerror or error}"
        if size != file.bytes:
            return f"{path} is damaged: {size:,} bytes, {file.bytes:,} were written"
    return None


def _no_run(path: Path) -> str:
    if not path.is_dir():
        return f"{path} is no folder. Give a run's folder, which is run.dir/run.name."
    for parent in list(path.absolute().parents)[:2]:
        if (parent / RUN_CONFIG).exists() and (parent / _FOLDER).exists():
            return f"{path} is inside of a run's folder. Give that: {parent}"
    return (
        f"{path} is no run's folder: it has no {', '.join(_PARTS[:-1])} or {_PARTS[-1]}. Give a run's "
        "folder, which is run.dir/run.name."
    )
