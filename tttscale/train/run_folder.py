"""The folder of a run, RUNDIR/NAME: whether a command may begin in it, go on in it, or neither.

What `metrics.jsonl` proves is never started over.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tttscale.config import Config, load_config
from tttscale.errors import CheckpointError, ConfigError
from tttscale.files import write_text
from tttscale.observe.metrics import look_through
from tttscale.train import final
from tttscale.train.checkpoint.folder import CheckpointFolder

METRICS, SAVED = "metrics.jsonl", "saved.json"


def run_folder(config: Config) -> Path:
    """RUNDIR/NAME."""
    return Path(config.run.dir) / config.run.name


def check_folder(config: Config) -> None:
    """Refuse to write over another run; one that ended before its first step is none.

    A run with checkpoints is gone on with, unless `checkpoint.resume` is "never" or it is finished; one that
    ended before its first checkpoint starts again, by the same command. The metrics are looked at here,
    before anything that takes time.

    Raises:
        ConfigError: the run's folder already holds steps or weights, or cannot be looked at.
        CheckpointError: it had checkpoints, which are lost.
        DataError: its metrics are not what one run wrote.
    """
    folder, resume = run_folder(config), config.checkpoint.resume
    with disk(config):
        checkpoints = CheckpointFolder(folder / "checkpoints")
        steps, finished = checkpoints.steps(), final.is_whole(folder)
        metrics = folder / METRICS
        taken = metrics.is_symlink() or (metrics.exists() and metrics.stat().st_size > 0)
        if resume != "never" and steps:
            _check_goes_on(config, steps, finished)
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


def note_saved(folder: Path, step: int) -> None:
    """Remember beside the checkpoints that there was one, should they get lost.

    Raises:
        OSError: the file system refused.
    """
    write_text(folder / SAVED, json.dumps({"step": step}) + "\n")


def _check_goes_on(config: Config, steps: list[int], finished: bool) -> None:
    folder, asked = run_folder(config), config.train.steps
    if config.checkpoint.resume != "auto":
        return
    if finished and steps[0] == asked:
        raise ConfigError(
            f"run.name = {config.run.name!r}: {folder} holds a run that is finished after train.steps = "
            f"{asked}. Raise train.steps to go on with it, or choose another name (run.name=...)."
        )
    if steps[0] > asked:
        raise ConfigError(
            f"train.steps = {asked}: {folder} holds a run of {steps[0]} steps already. "
            "Raise train.steps to go on with it, name a step with checkpoint.resume=N, or choose another "
            "name (run.name=...)."
        )


def _refuse_if_lost(config: Config, checkpoints: CheckpointFolder, done: int) -> None:
    """A run that was killed in its first save has `done` = `checkpoint.every` and starts again."""
    folder, every = run_folder(config), config.checkpoint.every
    if headless := checkpoints.headless():
        why = f"{checkpoints.path(headless[-1])} has no checkpoint.json"
    elif (folder / SAVED).exists():
        why = f"{folder / SAVED} says that there was one"
    elif done > every > 0:
        why = (
            f"{folder / METRICS} has {done} steps, and checkpoint.every = {every} asked for the first "
            f"after {every}"
        )
    else:
        return
    raise CheckpointError(
        f"run.name = {config.run.name!r}: {checkpoints.root} has no checkpoint to go on from, but {why}. Put "
        "the checkpoints back, or mount what they lie on. To train from the first step, choose another name "
        f"(run.name=...), or move {folder} away. Nothing was changed."
    )


def _starts_again(config: Config) -> bool:
    """Whether the folder is that of the same command, ended before its first checkpoint."""
    if config.checkpoint.every == 0 or config.checkpoint.resume != "auto":
        return False
    try:
        before = load_config(run_folder(config) / "config.yaml")
    except ConfigError:
        return False
    # Folders may be named in another way, and logs be of another kind.
    same = {"run": config.run, "logging": config.logging}
    return before.run.seed == config.run.seed and before.model_copy(update=same) == config


def _how_to_resume(resume: int | str, has_checkpoints: bool) -> str:
    if has_checkpoints:
        return f", or go on with it (checkpoint.resume=auto; it is {resume})"
    return "; it has no checkpoint to go on from"


@contextmanager
def disk(config: Config) -> Iterator[None]:
    """Errors of the file system, said once and with the key that decides.

    Raises:
        ConfigError: the file system refused.
    """
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"run.dir = {config.run.dir!r}: cannot write to {run_folder(config)}: {error}. Check "
            "space and permissions, or name another folder with run.dir=..."
        ) from error
