"""What rank 0 writes: the run's folder, metrics, console, wandb, plots, final weights."""

import json
import os
import secrets
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from tttscale import __version__
from tttscale.config import Config, dump_config
from tttscale.data.provenance import PROVENANCE_FILE, write_provenance
from tttscale.data.windows.mixture import Mixture
from tttscale.errors import ConfigError, DataError
from tttscale.files import write_text
from tttscale.observe import Console, MetricsLog, WandbSink
from tttscale.observe.guard import Guard
from tttscale.observe.metrics import look_through
from tttscale.observe.plots import plot_run
from tttscale.observe.wandb_choice import choose_wandb
from tttscale.train import final
from tttscale.train.checkpoint.checkpoints import Checkpoint
from tttscale.train.run_folder import METRICS, check_folder, disk, note_saved, run_folder

_WHOLE_FILES = ("config.yaml", PROVENANCE_FILE, "positions.json", "saved.json")
"""Written beside and then renamed."""


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

    def saved(self, step: int) -> None:
        """Nothing."""

    def finish(self, model: Any, positions: dict[str, Any] | None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Recorder(Silent):
    """Writes RUNDIR/NAME: config.yaml, data.json, metrics.jsonl, plots, positions.json, final/.

    Console, wandb and plots only look on: whatever befalls them, the run goes on.
    """

    def __init__(self, config: Config, tokens: Mixture, resumed: Checkpoint | None = None) -> None:
        """Create the run's folder, or go on in it.

        Args:
            config: the run's.
            tokens: the stores, for data.json.
            resumed: what the run goes on from.

        Raises:
            ConfigError: a run of this name exists, or run.dir cannot be written to.
            CheckpointError: its checkpoints are lost.
            DataError: its metrics are not those of the checkpoint.
        """
        self.folder = run_folder(config)
        self._config = config
        self._remarks: list[str] = []
        if resumed is None:
            check_folder(config)
        else:
            self._check_metrics(resumed)
        with disk(config):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._metrics = self._claim()
            self._clear_partial_files()
            write_text(self.folder / "config.yaml", dump_config(config))
            write_provenance(self.folder, tokens)
        if self._metrics.was_cut:
            self._remarks.append(
                f"{self.folder / METRICS}: its last line was cut short; it is left out"
            )
        self._every = config.logging.every
        self._steps = config.train.steps
        self._console = Console(config.train.steps)
        self._plots = Guard("plots are left out", "and `tttscale plot` draws them later")
        wandb = config.logging.wandb
        chosen = choose_wandb(wandb.mode, wandb.project, config.run.name, os.environ)
        before = resumed.manifest.wandb_id if resumed is not None else None
        self.wandb_id = chosen.run_id or before or secrets.token_hex(4)
        self._wandb = WandbSink(
            config.model_dump(mode="json"),
            chosen.mode,
            chosen.project,
            self.folder,
            chosen.name,
            self.wandb_id,
        )
        for remark in [*self._remarks, chosen.said]:
            self.note(remark)

    def step(self, record: Mapping[str, Any]) -> None:
        """One step's record to every sink; metrics.jsonl first, it is the truth.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        with disk(self._config):
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
        with disk(self._config):
            if step < self._steps and (kept := final.set_final_aside(self.folder)):
                self.note(f"the final weights so far are kept as {kept}")
            if lines := self._metrics.cut_after(step):
                aside = self.folder / "metrics-replaced.jsonl"
                self.note(f"{lines} lines of {METRICS} behind step {step} are kept in {aside}")

    def sync(self) -> None:
        """Put the metrics on disk, before a checkpoint that continues them.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        with disk(self._config):
            self._metrics.sync()

    def saved(self, step: int) -> None:
        """Remember that there is a checkpoint, apart from the checkpoint."""
        with suppress(OSError):  # metrics.jsonl says nearly the same
            note_saved(self.folder, step)

    def finish(self, model: Any, positions: dict[str, Any] | None) -> None:
        """Loss by position, final weights, plots.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        try:
            with disk(self._config):
                self._metrics.sync()
                if positions is not None:
                    marks = {"format_version": 1, "tttscale_version": __version__}
                    write_text(self.folder / "positions.json", json.dumps(marks | positions) + "\n")
                path = final.write_final(self.folder, model)
            self.note(f"final weights: {path}")
        finally:
            with self._plots():
                for plot in plot_run(self.folder):
                    self.note(f"plot: {plot}")

    def close(self) -> None:
        """Flush and close all sinks.

        Raises:
            ConfigError: run.dir cannot be written to.
        """
        self._wandb.finish()
        self._console.close()
        with disk(self._config):
            self._metrics.close()

    def _claim(self) -> MetricsLog:
        """Keep others out of the folder."""
        try:
            return MetricsLog(self.folder / METRICS)
        except BlockingIOError:
            raise ConfigError(
                f"run.name = {self._config.run.name!r}: another process is training in {self.folder}. "
                "Choose another name (run.name=...), or end that process."
            ) from None

    def _clear_partial_files(self) -> None:
        """What a process of this run that was killed has left; the folder is claimed."""
        for name in _WHOLE_FILES:
            for path in self.folder.glob(f"{name}.partial-[0-9]*"):
                path.unlink(missing_ok=True)

    def _check_metrics(self, resumed: Checkpoint) -> None:
        """They must be those that led to the checkpoint."""
        path, saved = self.folder / METRICS, resumed.manifest
        with disk(self._config):
            there = path.is_symlink() or path.exists()
            seen = look_through(path, saved.step) if there else None
        if seen is None or seen.first != 1:
            before = "" if seen is None or not seen.first else f" before step {seen.first}"
            self._remarks.append(
                f"{path} has no records{before}; those of this run were moved away"
            )
        if (
            seen is not None
            and seen.last
            and seen.record.get("tokens", saved.tokens) != saved.tokens
        ):
            raise DataError(
                f"{path}:{seen.line}: expected {saved.tokens} tokens after step {saved.step}, as "
                f"{resumed.folder} says, found {seen.record['tokens']}: these are another run's metrics. Put "
                "the file back as the run wrote it, or move it away: the run then goes on with a new one."
            )
