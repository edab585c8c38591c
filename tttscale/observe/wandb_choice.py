"""What wandb is told: the configuration first, then the environment, as wandb's users know it."""

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
    """What the run uses. WANDB_ENTITY, WANDB_RUN_GROUP, WANDB_TAGS and the like wandb reads by itself."""

    mode: str
    """offline, online or disabled."""
    project: str
    name: str
    run_id: str | None
    """None lets the run choose."""
    said: str
    """All of it in one line, and where it comes from."""


def choose_wandb(
    mode: str | None, project: str | None, run_name: str, environ: Mapping[str, str]
) -> WandbChoice:
    """Settle what `logging.wandb` leaves open.

    Args:
        mode: `logging.wandb.mode`; None: the environment decides.
        project: `logging.wandb.project`; the same.
        run_name: what the run is called where WANDB_NAME does not say otherwise.
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
        return _DEFAULT_MODE, f"default; WANDB_MODE = {asked!r:.40} is none of {', '.join(_MODES)}"
    return _MODES[asked.lower()], "WANDB_MODE"
