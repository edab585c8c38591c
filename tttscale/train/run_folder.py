"""The folder of a run, RUNDIR/NAME: whether a command may start in it, resume in it, or neither.

A run whose steps `metrics.jsonl` has is never started over.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tttscale.config import Config, load_config
from tttscale.data.provenance import PROVENANCE_FILE
from tttscale.errors import CheckpointError, ConfigError, DataError, cannot_write
from tttscale.files import write_text
from tttscale.observe.metrics import MetricsLog, look_through
from tttscale.train import final
from tttscale.train.checkpoint.folder import CheckpointFolder
from tttscale.train.checkpoint.manager import Checkpoint

METRICS, POSITIONS = "metrics.jsonl", "positions.json"
SAVED, LEFT_OUT = "saved.json", "left_out.json"
_REPLACED = ("config.yaml", PROVENANCE_FILE, POSITIONS, SAVED, LEFT_OUT, "loss_by_*.png")
"""Files that are written under another name first and then renamed, as patterns."""


def run_folder(config: Config) -> Path:
    """Return RUNDIR/NAME."""
    return Path(config.run.dir) / config.run.name


def check_folder(config: Config) -> None:
    """Refuse to write over another run; one that ended before its first step does not count.

    A run with checkpoints is resumed, unless `checkpoint.resume` is "never" or it is finished; one that
    ended before its first checkpoint starts again, by the same command. The metrics are checked here, before
    anything that takes time.

    Raises:
        ConfigError: the run's folder already holds steps or weights, or cannot be read.
        CheckpointError: it had checkpoints, which are lost.
        DataError: its metrics are not those of one run.
    """
    folder, resume = run_folder(config), config.checkpoint.resume
    with disk(config):
        checkpoints = CheckpointFolder(folder / "checkpoints")
        steps, finished = checkpoints.steps(), final.is_whole(folder)
        metrics = folder / METRICS
        taken = metrics.is_symlink() or (metrics.exists() and metrics.stat().st_size > 0)
        if resume != "never" and steps:
            _check_unfinished(config, steps, finished)
            asked = steps[0] if resume == "auto" else resume
            if taken and asked in steps:
                look_through(metrics, int(asked))
        elif steps or finished or (taken and not _starts_again(config)):
            raise ConfigError(
                f"run.name = {config.run.name!r}: {folder} already holds a run. Choose another name "
                f"(run.name=...), or move that folder away{_how_to_resume(resume, bool(steps))}."
            )
        else:
            _refuse_if_lost(config, checkpoints, look_through(metrics).last if taken else 0)


def check_metrics(config: Config, resumed: Checkpoint) -> list[str]:
    """Check that the metrics are those that led to the checkpoint.

    Returns:
        Notices of records that are missing.

    Raises:
        ConfigError: they cannot be read.
        DataError: they are another run's.
    """
    path, saved = run_folder(config) / METRICS, resumed.manifest
    with disk(config):
        there = path.is_symlink() or path.exists()
        seen = look_through(path, saved.step) if there else None
    if seen is not None and seen.last and seen.record.get("tokens", saved.tokens) != saved.tokens:
        raise DataError(
            f"{path}:{seen.line}: expected {saved.tokens} tokens after step {saved.step}, as "
            f"{resumed.folder} says, found {seen.record['tokens']}: these are another run's metrics. Put "
            "the file back as the run wrote it, or move it away: the run then starts a new one."
        )
    if seen is not None and seen.first == 1:
        return []
    before = "" if seen is None or not seen.first else f" before step {seen.first}"
    return [f"{path} has no records{before}; those of this run were moved away"]


def claim(config: Config) -> MetricsLog:
    """Open the metrics for this process alone, which keeps other processes out of the folder.

    Raises:
        ConfigError: another process trains in it.
        OSError: the file cannot be written.
    """
    folder = run_folder(config)
    try:
        return MetricsLog(folder / METRICS)
    except BlockingIOError:
        raise ConfigError(
            f"run.name = {config.run.name!r}: another process is training in {folder}. "
            "Choose another name (run.name=...), or end that process."
        ) from None


def clear_partial_files(folder: Path) -> None:
    """Remove what a killed process of this run has left; the folder is claimed.

    Raises:
        OSError: the file system refused.
    """
    for name in _REPLACED:
        for path in folder.glob(f"{name}.partial-[0-9]*"):
            path.unlink(missing_ok=True)


def note_saved(folder: Path, step: int) -> None:
    """Note beside the checkpoints that there was one, in case they are lost.

    Raises:
        OSError: the file system refused.
    """
    write_text(folder / SAVED, json.dumps({"step": step}) + "\n")


def _check_unfinished(config: Config, steps: list[int], finished: bool) -> None:
    folder, asked = run_folder(config), config.train.steps
    if config.checkpoint.resume != "auto":
        return
    if finished and steps[0] == asked:
        raise ConfigError(
            f"run.name = {config.run.name!r}: {folder} holds a run that is finished after train.steps = "
            f"{asked}. Raise train.steps to resume it, or choose another name (run.name=...)."
        )
    if steps[0] > asked:
        raise ConfigError(
            f"train.steps = {asked}: {folder} holds a run of {steps[0]} steps already. "
            "Raise train.steps to resume it, name a step with checkpoint.resume=N, or choose another "
            "name (run.name=...)."
        )


def _refuse_if_lost(config: Config, checkpoints: CheckpointFolder, done: int) -> None:
    """Refuse to start over a run that had checkpoints.

    A run that was killed in its first save starts again. That save may have been written beside the steps up
    to the next one.
    """
    folder, every = run_folder(config), config.checkpoint.every
    if headless := checkpoints.headless():
        why = f"{checkpoints.path(headless[-1])} has no checkpoint.json"
    elif (folder / SAVED).exists():
        why = f"{folder / SAVED} says that there was one"
    elif done > every > 0 and not (done <= 2 * every and checkpoints.partial(every).is_dir()):
        why = (
            f"{folder / METRICS} has {done} steps, and checkpoint.every = {every} asked for the first "
            f"after {every}"
        )
    else:
        return
    raise CheckpointError(
        f"run.name = {config.run.name!r}: {checkpoints.root} has no checkpoint to resume from, but {why}. "
        "Put the checkpoints back, or mount their disk. To train from the first step, choose another name "
        f"(run.name=...), or move {folder} away. Nothing was changed."
    )


def _starts_again(config: Config) -> bool:
    """Return whether the folder is of the same command, ended before its first checkpoint."""
    if config.checkpoint.every == 0 or config.checkpoint.resume != "auto":
        return False
    try:
        before = load_config(run_folder(config) / "config.yaml")
    except ConfigError:
        return False
    # Names of folders and kinds of logs may differ.
    same = {"run": config.run, "logging": config.logging}
    return before.run.seed == config.run.seed and before.model_copy(update=same) == config


def _how_to_resume(resume: int | str, has_checkpoints: bool) -> str:
    if has_checkpoints:
        return f", or resume it (checkpoint.resume=auto; it is {resume})"
    return "; it has no checkpoint to resume from"


@contextmanager
def disk(config: Config) -> Iterator[None]:
    """Turn errors of the file system into one that names the key.

    Raises:
        DiskError: the disk is full or fails.
        ConfigError: the file system refused for another reason.
    """
    try:
        yield
    except OSError as error:
        raise cannot_write(
            error,
            f"run.dir = {config.run.dir!r}: cannot write to {run_folder(config)}: {error}. Check "
            "space and permissions, or name another folder with run.dir=...",
        ) from error
