"""What rank 0 writes: the run's folder, metrics, console, wandb, TensorBoard, plots, weights."""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from tttscale import __version__
from tttscale.config import Config, dump_config
from tttscale.data.provenance import write_provenance
from tttscale.data.windows.mixture import Mixture
from tttscale.files import write_text
from tttscale.observe import Console, WandbSink
from tttscale.observe.guard import Guard
from tttscale.observe.plots import plot_run
from tttscale.observe.tensorboard_sink import TensorboardSink, check_installed
from tttscale.observe.wandb_choice import choose_wandb
from tttscale.train import final
from tttscale.train.checkpoint.manager import Checkpoint
from tttscale.train.run_folder import (
    METRICS,
    POSITIONS,
    check_folder,
    check_metrics,
    claim,
    clear_partial_files,
    disk,
    note_saved,
    run_folder,
)


def check_sinks(config: Config) -> None:
    """Check before anything is started that what the configuration asks for is installed.

    Raises:
        ConfigError: it is not.
    """
    if config.logging.tensorboard:
        check_installed()


class Recorder(Protocol):
    """Takes down what a run does; every rank has one and calls it alike."""

    @property
    def wandb_id(self) -> str | None:
        """The id by which wandb knows the run; None on ranks that do not know it."""
        ...

    def step(self, record: Mapping[str, Any]) -> None:
        """Write one step's record to every sink."""
        ...

    def evaluated(self, positions: dict[str, Any]) -> None:
        """Write the loss by position of a held-out loss on the way."""
        ...

    def log(self, text: str) -> None:
        """Print a line on the console."""
        ...

    def truncate_after(self, step: int) -> None:
        """Move what is recorded of later steps out of the way, since they are trained again."""
        ...

    def reconfigure(self, config: Config) -> None:
        """Write down a configuration that differs in the data that is left out."""
        ...

    def sync(self) -> None:
        """Put the metrics on disk, before a checkpoint that continues them."""
        ...

    def saved(self, step: int) -> None:
        """Note that there is a checkpoint, apart from the checkpoint."""
        ...

    def finish(self, model: Any, positions: dict[str, Any] | None) -> None:
        """Write the loss by position, the final weights and the plots."""
        ...

    def close(self) -> None:
        """Flush and close all sinks."""
        ...


class NullRecorder:
    """The recorder of all ranks but the first: it records nothing."""

    wandb_id: str | None = None

    def step(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""

    def evaluated(self, positions: dict[str, Any]) -> None:
        """Do nothing."""

    def log(self, text: str) -> None:
        """Do nothing."""

    def truncate_after(self, step: int) -> None:
        """Do nothing."""

    def reconfigure(self, config: Config) -> None:
        """Do nothing."""

    def sync(self) -> None:
        """Do nothing."""

    def saved(self, step: int) -> None:
        """Do nothing."""

    def finish(self, model: Any, positions: dict[str, Any] | None) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class RunRecorder:
    """Writes RUNDIR/NAME: config.yaml, data.json, metrics.jsonl, plots, positions.json, final/.

    Console, wandb, TensorBoard and plots only observe: if one of them fails, the run continues.
    """

    def __init__(
        self,
        config: Config,
        tokens: Mixture,
        resumed: Checkpoint | None = None,
        notices: Sequence[str] = (),
    ) -> None:
        """Create the run's folder, or resume in it.

        Args:
            config: the run's.
            tokens: the stores, for data.json.
            resumed: the checkpoint that the run resumes from.
            notices: lines for the console about the start so far.

        Raises:
            ConfigError: a run of this name exists, or run.dir cannot be written to.
            CheckpointError: its checkpoints are lost.
            DataError: its metrics are not those of the checkpoint.
        """
        self.folder = run_folder(config)
        self._config = config
        notices = list(notices)
        if resumed is None:
            check_folder(config)
        else:
            notices += check_metrics(config, resumed)
        with disk(config):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._metrics = claim(config)
            clear_partial_files(self.folder)
            write_text(self.folder / "config.yaml", dump_config(config))
            write_provenance(self.folder, tokens)
        if self._metrics.was_cut:
            notices.append(f"{self.folder / METRICS}: its last line was cut short; it is left out")
        self._every = config.logging.every
        self._steps = config.train.steps
        self._console = Console(config.train.steps)
        self._plots = Guard("plots are left out", "and `tttscale plot` draws them later")
        wandb = config.logging.wandb
        chosen = choose_wandb(wandb.mode, wandb.project, config.run.name, os.environ)
        before = resumed.manifest.wandb_id if resumed is not None else None
        self.wandb_id: str | None = chosen.run_id or before or secrets.token_hex(4)
        self._wandb = WandbSink(
            config.model_dump(mode="json"),
            chosen.mode,
            chosen.project,
            self.folder,
            chosen.name,
            self.wandb_id,
        )
        self._tensorboard = TensorboardSink(self.folder, config.logging.tensorboard)
        for notice in [*notices, chosen.said]:
            self.log(notice)

    def step(self, record: Mapping[str, Any]) -> None:
        """Write one step's record to every sink; metrics.jsonl first, all else is drawn from it.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        with disk(self._config):
            self._metrics.write(record)
        if record["step"] % self._every == 0 or record["step"] == self._steps:
            self._console.step(record)
        self._wandb.log(record)
        self._tensorboard.log(record)

    def evaluated(self, positions: dict[str, Any]) -> None:
        """Write the loss by position of a held-out loss, in place of the one before.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        marks = {"format_version": 1, "tttscale_version": __version__}
        with disk(self._config):
            write_text(self.folder / POSITIONS, json.dumps(marks | positions) + "\n")

    def log(self, text: str) -> None:
        """Print a line on the console."""
        self._console.log(text)

    def truncate_after(self, step: int) -> None:
        """Take later steps out of metrics.jsonl, and final weights out of `final` if steps are left.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        with disk(self._config):
            if step < self._steps and (moved := final.archive_final(self.folder)):
                self.log(f"the final weights so far were moved to {moved}")
            if lines := self._metrics.cut_after(step):
                moved = self.folder / "metrics-replaced.jsonl"
                self.log(f"{lines} lines of {METRICS} after step {step} were moved to {moved}")

    def reconfigure(self, config: Config) -> None:
        """Write down a configuration that differs in the data that is left out.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        self._config = config
        with disk(config):
            write_text(self.folder / "config.yaml", dump_config(config))

    def sync(self) -> None:
        """Put the metrics on disk, before a checkpoint that continues them.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        with disk(self._config):
            self._metrics.sync()

    def saved(self, step: int) -> None:
        """Note that there is a checkpoint, apart from the checkpoint."""
        with suppress(OSError):  # metrics.jsonl says nearly the same
            note_saved(self.folder, step)

    def finish(self, model: Any, positions: dict[str, Any] | None) -> None:
        """Write the loss by position, the final weights and the plots.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        try:
            with disk(self._config):
                self._metrics.sync()
                if positions is not None:
                    self.evaluated(positions)
                path = final.write_final(self.folder, model)
            self.log(f"final weights: {path}")
        finally:
            with self._plots():
                for plot in plot_run(self.folder):
                    self.log(f"plot: {plot}")

    def close(self) -> None:
        """Flush and close all sinks.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        self._wandb.finish()
        self._tensorboard.finish()
        self._console.close()
        with disk(self._config):
            self._metrics.close()
