"""What an evaluation writes: eval.json with all numbers, eval.md with tables, and a plot of each task."""

import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tttscale import __version__
from tttscale.errors import ConfigError
from tttscale.evaluate.markdown import markdown, sentence
from tttscale.files import write_text
from tttscale.observe.eval_plots import plot_accuracy, plot_heat_map, plot_inner, plot_loss_band
from tttscale.observe.guard import Guard, warn
from tttscale.reading import read_json
from tttscale.versions import KEY, newer, newer_format
from tttscale.writable import check_folder, writing

JSON, MARKDOWN = "eval.json", "eval.md"
FORMAT_VERSION = 1
PLOTS: dict[str, tuple[str, Callable[[Mapping[str, Any], Path], Path]]] = {
    "loss": ("loss_by_position.png", plot_loss_band),
    "inner": ("inner_loss_by_position.png", plot_inner),
    "passkey": ("passkey.png", plot_heat_map),
    "needle": ("needle.png", plot_heat_map),
    "recall": ("recall.png", plot_accuracy),
    "copy": ("copy.png", plot_accuracy),
    "state-tracking": ("state_tracking.png", plot_accuracy),
}
"""By task: the name of its plot, and what draws it."""
FILES = (JSON, MARKDOWN, *(name for name, _ in PLOTS.values()))
_ADVICE = "Name another folder with --out, or remove the file."


def write_report(
    folder: Path, model: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Write all files; what the folder has of other tasks of the same weights stays.

    Args:
        folder: of the results; it is made if it is missing.
        model: what was evaluated, with its fingerprint.
        results: by task.

    Returns:
        The content of eval.json.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    earlier = check_report(folder)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions["numpy"] = np.__version__
    tasks = {**_of_same_weights(folder, earlier, model["fingerprint"]), **results}
    report = {
        "format_version": FORMAT_VERSION,
        KEY: __version__,
        "versions": versions,
        "model": dict(model),
        "tasks": {task: tasks[task] for task in PLOTS if task in tasks},
    }
    with writing(folder, "--out"):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / JSON, json.dumps(report, indent=1, allow_nan=False) + "\n")
        guard = Guard("plots are left out", "and eval.json has all numbers")
        drawn = {}
        for task, (name, draw) in PLOTS.items():
            if task in results or task not in tasks:
                (folder / name).unlink(missing_ok=True)  # else it would show other numbers
            if task not in results:
                continue
            with guard():
                draw(results[task], folder / name)
        for task in report["tasks"]:
            if (folder / PLOTS[task][0]).is_file():
                drawn[task] = PLOTS[task][0]
        write_text(folder / MARKDOWN, markdown(report, drawn))
    return report


def check_report(folder: Path) -> Mapping[str, Any] | None:
    """Find out, before anything is measured, whether a report can be written to a folder.

    Returns:
        The report that it has already, if it has one.

    Raises:
        ConfigError: it cannot be written to, or has an eval.json that no evaluation has written.
    """
    check_folder(folder, "--out", FILES)
    path = folder / JSON
    if not path.exists():
        return None
    found = read_json(path, error=ConfigError, advice=_ADVICE)
    if isinstance(found, dict) and newer_format(found.get("format_version"), FORMAT_VERSION):
        raise ConfigError(newer(path, found.get(KEY), found["format_version"]))
    try:
        tasks = {task: dict(found["tasks"][task]) for task in found["tasks"] if task in PLOTS}
        report = {**found, "tasks": tasks}
        markdown(report, {})  # what is kept has to be written again
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        raise ConfigError(f"{path} is not what an evaluation has written. {_ADVICE}") from None
    return report


def summary(report: Mapping[str, Any], tasks: Mapping[str, Any], folder: Path) -> str:
    """Say on the console what was found and where the files are."""
    lines = [sentence(task, report["tasks"][task]) for task in tasks]
    names = [JSON, MARKDOWN, *(PLOTS[task][0] for task in tasks)]
    return "\n".join([*lines, "", *(str(folder / n) for n in names if (folder / n).is_file())])


def _of_same_weights(
    folder: Path, earlier: Mapping[str, Any] | None, fingerprint: str
) -> Mapping[str, Any]:
    """Tasks that the folder has of the same weights."""
    if earlier is None:
        return {}
    if earlier["model"]["fingerprint"] == fingerprint:
        return earlier["tasks"]
    warn(f"{folder / JSON} was of other weights; it is replaced")
    return {}
