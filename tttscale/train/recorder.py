"""What rank 0 writes: the run's folder, metrics, console, wandb, plots, final weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tttscale.config import Config, dump_config
from tttscale.data.components import Tokens
from tttscale.data.record import write_data_record
from tttscale.errors import ConfigError
from tttscale.observe import Console, MetricsLog, WandbSink
from tttscale.observe.plots import plot_run


class Silent:
    """The recorder of all other ranks."""

    def step(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def finish(self, model: Any, positions: dict[str, Any] | None) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Recorder(Silent):
    """Writes RUNDIR/NAME: config.yaml, data.json, metrics.jsonl, plots, positions.json, final/."""

    def __init__(self, config: Config, tokens: Tokens) -> None:
        """Create the run's folder.

        Raises:
            ConfigError: a run of this name exists.
        """
        self.folder = run_folder(config)
        check_folder(config)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
        write_data_record(self.folder, tokens)
        self._every = config.logging.every
        self._steps = config.train.steps
        self._metrics = MetricsLog(self.folder / "metrics.jsonl")
        self._console = Console(config.train.steps)
        wandb = config.logging.wandb
        self._wandb = WandbSink(
            config.model_dump(mode="json"), wandb.mode, wandb.project, self.folder, config.run.name
        )

    def step(self, record: Mapping[str, Any]) -> None:
        """One step's record to every sink; metrics.jsonl first, it is the truth."""
        self._metrics.write(record)
        if record["step"] % self._every == 0 or record["step"] == self._steps:
            self._console.step(record)
        self._wandb.log(record)

    def note(self, text: str) -> None:
        """A line on the console."""
        self._console.note(text)

    def finish(self, model: Any, positions: dict[str, Any] | None) -> None:
        """Final weights, loss by position, plots."""
        model.save_pretrained(self.folder / "final")
        if positions is not None:
            text = json.dumps(positions) + "\n"
            (self.folder / "positions.json").write_text(text, encoding="utf-8")
        plots = plot_run(self.folder)
        self.note(f"final weights: {self.folder / 'final'}")
        for path in plots:
            self.note(f"plot: {path}")

    def close(self) -> None:
        """Flush and close all sinks."""
        self._wandb.finish()
        self._console.close()
        self._metrics.close()


def run_folder(config: Config) -> Path:
    """RUNDIR/NAME."""
    return Path(config.run.dir) / config.run.name


def check_folder(config: Config) -> None:
    """Refuse to write over another run.

    Raises:
        ConfigError: the run's folder already holds metrics.
    """
    folder = run_folder(config)
    if (folder / "metrics.jsonl").exists():
        raise ConfigError(
            f"run.name = {config.run.name!r}: {folder} already holds a run. Choose another name "
            f"(run.name=...), or remove that folder."
        )
