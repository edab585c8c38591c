"""Settings of wandb: the configuration comes first, then wandb's own environment variables."""

from collections.abc import Mapping
from typing import NamedTuple

_DEFAULT_MODE, _DEFAULT_PROJECT = "offline", "tttscale"
_MODES = {
    "offline": "offline",
    "dryrun": "offline",
    "online": "online",
    "run": "online",
    "disabled": "disabled",
}
_FALSE = ("", "0", "false", "no", "off")


class WandbChoice(NamedTuple):
    """The settings of a run. wandb itself reads WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_TAGS and the like."""

    mode: str
    """offline, online or disabled."""
    project: str
    name: str
    run_id: str | None
    """None: the run chooses one."""
    said: str
    """All settings in one line, with where each comes from."""


def choose_wandb(
    mode: str | None, project: str | None, run_name: str, environ: Mapping[str, str]
) -> WandbChoice:
    """Choose the settings that `logging.wandb` leaves open.

    Args:
        mode: `logging.wandb.mode`; None: the environment decides.
        project: `logging.wandb.project`; None: the environment decides.
        run_name: the run's name, unless WANDB_NAME gives another.
        environ: the environment.
    """
    mode, mode_from = (mode, "logging.wandb.mode") if mode else _mode_of(environ)
    project, project_from = (
        (project, "logging.wandb.project")
        if project
        else (environ["WANDB_PROJECT"], "WANDB_PROJECT")
        if environ.get("WANDB_PROJECT")
        else (_DEFAULT_PROJECT, "default")
    )
    name, run_id = environ.get("WANDB_NAME") or run_name, environ.get("WANDB_RUN_ID") or None
    said = f"wandb: {mode} ({mode_from})"
    if mode != "disabled":
        said += f", project {project} ({project_from})"
        said += f", name {name} (WANDB_NAME)" * (name != run_name)
        said += f", id {run_id} (WANDB_RUN_ID)" * (run_id is not None)
    return WandbChoice(mode, project, name, run_id, said)


def _mode_of(environ: Mapping[str, str]) -> tuple[str, str]:
    if environ.get("WANDB_DISABLED", "").strip().lower() not in _FALSE:
        return "disabled", "WANDB_DISABLED"
    asked = environ.get("WANDB_MODE", "").strip()
    if not asked:
        return _DEFAULT_MODE, "default"
    if asked.lower() not in _MODES:
        return (
            _DEFAULT_MODE,
            f"default; WANDB_MODE = {asked!r:.40} is not one of {', '.join(_MODES)}",
        )
    return _MODES[asked.lower()], "WANDB_MODE"
