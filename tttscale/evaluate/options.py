"""What `tttscale eval` measures, and how: the words of its command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tttscale.errors import ConfigError
from tttscale.location import Location
from tttscale.scan.layout import Kind

TASKS = {
    "loss": "loss and perplexity by position",
    "inner": "inner loss before and after each step",
    "passkey": "find a number in a long text",
    "needle": "find one number among eight",
    "recall": "values of keys",
    "copy": "copy half of the sequence",
    "state-tracking": "parity and S5",
}
"""All tasks, and what each measures."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    tasks: tuple[str, ...] = ("loss",)
    store: Location | None = None
    split: str | None = None
    length: int | None = None
    lengths: tuple[int, ...] = ()
    sequences: int | None = None
    depths: int = 5
    samples: int = 20
    seed: int = 0
    chunk: int | None = None
    layout: Kind | None = None
    precision: str = "fp32"
    tokenizer: str | None = None
    out: Path | None = None
    command: str = ""
    """The command line, for the report."""

    def agreed(self) -> dict[str, str]:
        """What all ranks must have in common, by the names that a user knows."""
        hosts = ("out", "command", "store", "tokenizer")
        return {f"--{name}": str(value) for name, value in vars(self).items() if name not in hosts}


def check_tasks(tasks: Sequence[str]) -> None:
    """Refuse a task that there is not.

    Raises:
        ConfigError: it names all that there are.
    """
    for task in tasks:
        if task not in TASKS:
            known = ", ".join(f"{name} ({what})" for name, what in TASKS.items())
            raise ConfigError(f"--task {task!r:.40}: no such task. The tasks are {known}.")
