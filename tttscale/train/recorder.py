"""What rank 0 writes: the run's folder, metrics, console, wandb, plots, final weights."""

import fcntl
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tttscale import __version__
from tttscale.config import Config, dump_config, load_config
from tttscale.data.components import Tokens
from tttscale.data.record import write_data_record
from tttscale.errors import ConfigError
from tttscale.files import write_text
from tttscale.observe import Console, MetricsLog, WandbSink
from tttscale.observe.plots import plot_run
from tttscale.train.checkpoint.checkpoints import Checkpoint
from tttscale.train.checkpoint.folder import CheckpointFolder


class Silent:
    """The recorder of all other ranks."""

    wandb_id: str | None = None
    """Under which wandb knows the run."""

    def step(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def go_on_after(self, step: int) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""

    def finish(self, model: Any, positions: dict[str, Any] | None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Recorder(Silent):
    """Writes RUNDIR/NAME: config.yaml, data.json, metrics.jsonl, plots, positions.json, final/."""

    def __init__(self, config: Config, tokens: Tokens, resumed: Checkpoint | None = None) -> None:
        """Create the run's folder, or go on in it.

        Args:
            config: the run's.
            tokens: the stores, for data.json.
            resumed: what the run goes on from.

        Raises:
            ConfigError: a run of this name exists, or run.dir cannot be written to.
        """
        self.folder = run_folder(config)
        self._config = config
        if resumed is None:
            check_folder(config)
        with _disk(config):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._metrics = MetricsLog(self.folder / "metrics.jsonl")
            _claim(self._metrics, config)
            write_text(self.folder / "config.yaml", dump_config(config))
            write_data_record(self.folder, tokens)
        self._every = config.logging.every
        self._steps = config.train.steps
        self._console = Console(config.train.steps)
        wandb = config.logging.wandb
        before = resumed.manifest.wandb_id if resumed is not None else None
        self.wandb_id = before or secrets.token_hex(4)
        self._wandb = WandbSink(
            config.model_dump(mode="json"),
            wandb.mode,
            wandb.project,
            self.folder,
            config.run.name,
            self.wandb_id,
        )

    def step(self, record: Mapping[str, Any]) -> None:
        """One step's record to every sink; metrics.jsonl first, it is the truth.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        with _disk(self._config):
            self._metrics.write(record)
        if record["step"] % self._every == 0 or record["step"] == self._steps:
            self._console.step(record)
        self._wandb.log(record)

    def note(self, text: str) -> None:
        """A line on the console."""
        self._console.note(text)

    def go_on_after(self, step: int) -> None:
        """Take later steps out of metrics.jsonl, and final weights out of `final` if steps are left.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        with _disk(self._config):
            final = self.folder / "final"
            if step < self._config.train.steps and final.exists():
                number = 1
                while (kept := self.folder / f"final-replaced-{number}").exists():
                    number += 1
                final.rename(kept)
                self.note(f"the final weights so far are kept as {kept}")
            self._metrics.cut_after(step)

    def sync(self) -> None:
        """Put the metrics on disk, before a checkpoint that continues them.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        with _disk(self._config):
            self._metrics.sync()

    def finish(self, model: Any, positions: dict[str, Any] | None) -> None:
        """Loss by position, plots, final weights.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        with _disk(self._config):
            try:
                plots = self._draw(positions)
            finally:  # the weights are what the run was for, so nothing above keeps them back
                model.save_pretrained(self.folder / "final")
        self.note(f"final weights: {self.folder / 'final'}")
        for path in plots:
            self.note(f"plot: {path}")

    def _draw(self, positions: dict[str, Any] | None) -> list[Path]:
        if positions is not None:
            marks = {"format_version": 1, "tttscale_version": __version__}
            write_text(self.folder / "positions.json", json.dumps(marks | positions) + "\n")
        return plot_run(self.folder)

    def close(self) -> None:
        """Flush and close all sinks.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        self._wandb.finish()
        self._console.close()
        with _disk(self._config):
            self._metrics.close()


def run_folder(config: Config) -> Path:
    """RUNDIR/NAME."""
    return Path(config.run.dir) / config.run.name


def check_folder(config: Config) -> None:
    """Refuse to write over another run; one that ended before its first step is none.

    A run with checkpoints is gone on with, unless `checkpoint.resume` is "never" or it is finished; one that
    ended before its first checkpoint starts again, by the same command.

    Raises:
        ConfigError: the run's folder already holds steps or weights, or cannot be looked at.
    """
    folder, resume = run_folder(config), config.checkpoint.resume
    with _disk(config):
        metrics, weights = folder / "metrics.jsonl", (folder / "final").exists()
        taken = weights or (metrics.exists() and metrics.stat().st_size > 0)
        finished = (folder / "final" / "config.json").exists()  # written last
        steps = CheckpointFolder(folder / "checkpoints").steps()
    if resume != "never" and steps:
        if resume == "auto" and finished and steps[0] == config.train.steps:
            raise ConfigError(
                f"run.name = {config.run.name!r}: {folder} holds a run that is finished after train.steps = "
                f"{steps[0]}. Raise train.steps to go on with it, or choose another name (run.name=...)."
            )
        if resume == "auto" and steps[0] > config.train.steps:
            raise ConfigError(
                f"train.steps = {config.train.steps}: {folder} holds a run of {steps[0]} steps already. "
                "Raise train.steps to go on with it, name a step with checkpoint.resume=N, or choose another "
                "name (run.name=...)."
            )
    elif steps or weights or (taken and not _starts_again(config)):
        raise ConfigError(
            f"run.name = {config.run.name!r}: {folder} already holds a run. Choose another name "
            f"(run.name=...), or remove that folder{_how_to_resume(resume, bool(steps))}."
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


def _claim(metrics: MetricsLog, config: Config) -> None:
    """Keep others out until the first step is written; the system frees it when the process ends."""
    try:
        fcntl.flock(metrics.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        metrics.close()
        raise ConfigError(
            f"run.name = {config.run.name!r}: another process is training in {run_folder(config)}. "
            "Choose another name (run.name=...), or end that process."
        ) from None
    except OSError:  # a file system without locks
        pass


@contextmanager
def _disk(config: Config) -> Iterator[None]:
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
