"""Whether a checkpoint and a configuration belong to one run."""

import re
from pathlib import Path

from tttscale.config import Config, flat_keys, load_config
from tttscale.data.provenance import check_provenance, tokenizer_notice
from tttscale.data.windows.mixture import Mixture
from tttscale.data.windows.order import data_step
from tttscale.errors import CheckpointError
from tttscale.model.architecture import INERT, SHOWN, TTTConfig
from tttscale.model.weights import CONFIG
from tttscale.train.checkpoint.checkpoints import Checkpoint
from tttscale.train.checkpoint.manifest import RUN_CONFIG, versions
from tttscale.train.schedules import followed

_FIXED = re.compile(r"^(model|data)\.|^run\.seed$|^train\.sequences_per_step$")
"""What decides which parameters there are, and which tokens a step sees."""
_FREE = re.compile(
    r"\.store$|^data\.(heldout_split|skip_steps|damaged)\b|"
    r"^model\.(preset|init|initial_weights|ttt_base_lr|inner_lr_warmup_\w+)$"
)
"""Among these: stores are compared by content, presets by their fields; bad data may be found late."""
_SILENT = re.compile(
    r"\.store$|^(checkpoint|logging|evaluate)\.|^run\.(name|dir)$|^model\.(preset|init|initial_weights)$"
)


def check_same_run(checkpoint: Checkpoint, config: Config, tokens: Mixture) -> list[str]:
    """Refuse to go on with another model, other data or another order of it.

    Returns:
        Remarks on what else is other than it was.

    Raises:
        CheckpointError: a key differs that may not.
        DataError: the stores are others.
        ConfigError: the checkpoint's configuration is none that this version knows.
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
    remarks = [f"going on after step {step:,} from {folder}"]
    for key in different:
        if not _SILENT.search(key):
            remarks.append(
                f"{key} = {now.get(key, 'nothing')} from here on, was {then.get(key, 'nothing')}"
            )
    if step < config.train.steps:
        remarks += followed(step + 1, (before.train, before.model), (config.train, config.model))
    for name, version in versions().items():
        was = checkpoint.manifest.versions.get(name)
        if was != version:
            remarks.append(f"{name} {version} from here on, was {was}: last digits may differ")
    return remarks


def remarks_on_start(config: Config, tokens: Mixture) -> list[str]:
    """What cannot be checked, or looks wrong, of the weights that a new run starts from."""
    if config.model.initial_weights is None:
        return []
    folder = Path(config.model.initial_weights)
    remarks = []
    if not (folder / CONFIG).exists():
        unseen = ", ".join(sorted(TTTConfig.model_fields.keys() - INERT - SHOWN))
        remarks.append(
            f"has no {CONFIG}, so these are taken from the configuration unchecked: {unseen}"
        )
    if (other := tokenizer_notice(folder, tokens)) is not None:
        remarks.append(other)
    return [f"model.initial_weights={folder}: {remark}" for remark in remarks]


def _check_skipped(step: int, then: Config, now: Config) -> None:
    """What is left out may change for data that no step has read yet."""
    end = data_step(step, then.data.skipped)
    before, after = (
        [(first, min(last, end)) for first, last in c.data.skipped if first <= end]
        for c in (then, now)
    )
    if before != after:
        raise CheckpointError(
            f"data.skip_steps = {list(now.data.skip_steps)} is other than the run's own "
            f"{list(then.data.skip_steps)} among the {end:,} steps of data that it has read or left out by "
            f"step {step:,}. Keep those, and leave out later ones; or go on from an earlier checkpoint "
            "(checkpoint.resume=N)."
        )


def _refusal(folder: Path, keys: list[str], then: dict[str, str], now: dict[str, str]) -> str:
    key, others = keys[0], len(keys) - 1
    more = f" (and {others} more: {', '.join(keys[1:4])}{', ...' * (others > 3)})" if others else ""
    return (
        f"{key} = {now.get(key, 'nothing')}, but the run in {folder.parent.parent} has trained with "
        f"{then.get(key, 'nothing')}{more}. Set it back to go on with that run; or start another under a new "
        f"run.name, from its weights if you like: model.initial_weights={folder}"
    )
