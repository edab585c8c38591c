"""Which configurations may resume a checkpoint, and what to say about differences."""

import re
from pathlib import Path

from tttscale.config import Config, flat_keys, load_config
from tttscale.data.provenance import check_provenance, tokenizer_notice
from tttscale.data.windows.mixture import Mixture
from tttscale.data.windows.order import data_step
from tttscale.errors import CheckpointError
from tttscale.model.architecture import INERT, SHOWN, TTTConfig
from tttscale.model.weights import CONFIG
from tttscale.train.checkpoint.manager import Checkpoint
from tttscale.train.checkpoint.manifest import RUN_CONFIG, versions
from tttscale.train.schedules import rate_changes

_FIXED = re.compile(r"^(model|data)\.|^run\.seed$|^train\.sequences_per_step$")
"""Keys that decide which parameters there are and which tokens a step sees."""
_FREE = re.compile(
    r"\.store$|^data\.(heldout_split|skip_steps|damaged)\b|"
    r"^model\.(preset|init|initial_weights|ttt_base_lr|inner_lr_warmup_\w+)$"
)
"""Keys among them that may differ: stores are compared by content and presets by their fields, and bad data
may be found late."""
_SILENT = re.compile(
    r"\.store$|^(checkpoint|logging|evaluate)\.|^run\.(name|dir)$|^model\.(preset|init|initial_weights)$|"
    r"^train\.(ignore_memory|hang_seconds)$"
)
"""Keys whose differences are not worth a notice."""


def check_compatible(checkpoint: Checkpoint, config: Config, tokens: Mixture) -> list[str]:
    """Refuse to resume with another model, other data or another order of it.

    Returns:
        Notices of what else differs.

    Raises:
        CheckpointError: a key differs that may not.
        DataError: the stores differ.
        ConfigError: this version does not know the checkpoint's configuration.
    """
    folder, step = checkpoint.folder, checkpoint.manifest.step
    before = load_config(folder / RUN_CONFIG)
    then, now = (dict(flat_keys(c.model_dump(mode="json"))) for c in (before, config))
    different = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    fixed = [key for key in different if _FIXED.search(key) and not _FREE.search(key)]
    if step > config.train.steps:
        raise CheckpointError(
            f"train.steps = {config.train.steps}, but {folder} is of step {step}. Raise train.steps, or name "
            "an earlier checkpoint with checkpoint.resume=N."
        )
    if fixed:
        raise CheckpointError(_refusal(folder, fixed, then, now))
    _check_skipped(step, before, config)
    check_provenance(folder, tokens)
    notices = [f"resumes after step {step:,} from {folder}"]
    for key in different:
        if not _SILENT.search(key):
            notices.append(
                f"{key} = {now.get(key, 'unset')} from here on, was {then.get(key, 'unset')}"
            )
    if step < config.train.steps:
        notices += rate_changes(
            step + 1, (before.train, before.model), (config.train, config.model)
        )
    for name, version in versions().items():
        was = checkpoint.manifest.versions.get(name)
        if was != version:
            notices.append(f"{name} {version} from here on, was {was}: last digits may differ")
    return notices


def start_notices(config: Config, tokens: Mixture) -> list[str]:
    """Say what cannot be checked, or looks wrong, about the weights that a new run starts from."""
    if config.model.initial_weights is None:
        return []
    folder = Path(config.model.initial_weights)
    notices = []
    if not (folder / CONFIG).exists():
        unseen = ", ".join(sorted(TTTConfig.model_fields.keys() - INERT - SHOWN))
        notices.append(
            f"has no {CONFIG}, so these are taken from the configuration unchecked: {unseen}"
        )
    if (other := tokenizer_notice(folder, tokens)) is not None:
        notices.append(other)
    return [f"model.initial_weights={folder}: {notice}" for notice in notices]


def _check_skipped(step: int, then: Config, now: Config) -> None:
    """Let `data.skip_steps` differ only for data that no step has read yet."""
    end = data_step(step, then.data.skipped)
    before, after = (
        [(first, min(last, end)) for first, last in c.data.skipped if first <= end]
        for c in (then, now)
    )
    if before != after:
        raise CheckpointError(
            f"data.skip_steps = {list(now.data.skip_steps)} differs from the run's own "
            f"{list(then.data.skip_steps)} among the {end:,} steps of data that it has read or left out by "
            f"step {step:,}. Keep those, and leave out later ones; or resume from an earlier checkpoint "
            "(checkpoint.resume=N)."
        )


def _refusal(folder: Path, keys: list[str], then: dict[str, str], now: dict[str, str]) -> str:
    key, others = keys[0], len(keys) - 1
    more = f" (and {others} more: {', '.join(keys[1:4])}{', ...' * (others > 3)})" if others else ""
    return (
        f"{key} = {now.get(key, 'unset')}, but the run in {folder.parent.parent} has trained with "
        f"{then.get(key, 'unset')}{more}. Set it back to resume that run; or start another under a new "
        f"run.name, from its weights if you like: model.initial_weights={folder}"
    )
