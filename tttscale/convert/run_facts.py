"""What the files of a run say of its training, for a model card: names and numbers, never paths."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tttscale.config import Config, load_config
from tttscale.data.provenance import PROVENANCE_FILE, StoreProvenance, read_stores
from tttscale.errors import CheckpointError, ConfigError, DataError
from tttscale.observe import human
from tttscale.observe.metrics import each_record
from tttscale.train import final
from tttscale.train.checkpoint.manifest import MANIFEST, Manifest, check_file, read_manifest

_CHECKPOINTS = "checkpoints"


def run_of(folder: Path) -> Path | None:
    """Find the run that a model's folder belongs to: its `final` or one of its checkpoints."""
    folder = folder.absolute()
    if folder.name == final.NAME:
        return folder.parent
    return folder.parent.parent if folder.parent.name == _CHECKPOINTS else None


def checked_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a checkpoint, and compare its weights with the digests in it.

    Returns:
        None: the folder is no checkpoint.

    Raises:
        CheckpointError: it is damaged.
    """
    if not (folder / MANIFEST).exists():
        return None
    try:
        manifest = read_manifest(folder)
        for name, file in manifest.files.items():
            if not name.startswith("optimizer-"):
                check_file(folder / name, file)
    except OSError as error:
        raise CheckpointError(
            f"{folder}: {error.strerror or error}. Give a checkpoint that can be read"
        ) from None
    return manifest


def run_facts(
    run: Path | None, folder: Path, manifest: Manifest | None, notices: list[str]
) -> dict[str, str]:
    """Collect what is known of the training that led to some weights.

    Args:
        run: the folder of the run; None: it is not known.
        folder: of the weights.
        manifest: of their checkpoint; None: they are no checkpoint.
        notices: lines about files that cannot be read are added.
    """
    if run is None:
        return {}
    facts: dict[str, str] = {}
    last = _last_record(run, None if manifest is None else manifest.step, notices)
    config = _config(folder if manifest is not None else run, notices)
    if config is not None:
        facts |= _settings(config)
    facts |= _progress(manifest, last)
    place = folder if (folder / PROVENANCE_FILE).exists() else run
    if (place / PROVENANCE_FILE).exists():
        try:
            facts |= _data(read_stores(place))
        except DataError as error:
            notices.append(f"the model card does not say what it was trained on: {error}")
    if manifest is not None:
        facts["versions"] = ", ".join(f"{name} {v}" for name, v in manifest.versions.items())
    return facts


def _progress(manifest: Manifest | None, last: Mapping[str, Any]) -> dict[str, str]:
    step = _number(last, "step") if manifest is None else manifest.step
    tokens = _number(last, "tokens") if manifest is None else manifest.tokens
    facts = {}
    if step is not None:
        facts["steps"] = f"{step:,}"
    if tokens is not None:
        facts["tokens seen"] = f"{tokens:,} ({human(tokens)})"
    for name, key in {"training loss": "loss", "held-out loss": "heldout_loss"}.items():
        if (loss := _number(last, key)) is not None:
            at = f" at step {last['heldout_step']:,}" if key == "heldout_loss" else ", last step"
            facts[name] = f"{loss:.4f} nats per token{at}"
    return facts


def _settings(config: Config) -> dict[str, str]:
    train, data = config.train, config.data
    return {
        "run": config.run.name,
        "sequence length": f"{data.sequence_length:,} tokens",
        "sequences per step": f"{train.sequences_per_step:,}",
        "learning rate": f"{train.lr:g}",
        "precision": train.precision,
        "seed": str(config.run.seed),
        "split": f"each sequence over {config.parallel.sequence} rank(s), ZeRO {config.zero.stage}",
    }


def _data(stores: list[StoreProvenance]) -> dict[str, str]:
    facts = {}
    for number, store in enumerate(stores):
        name = "data" if len(stores) == 1 else f"data {number + 1}"
        split = store.splits["train"]
        share = "" if len(stores) == 1 else f", weight {store.weight:g}"
        called = store_name(store.store)
        facts[name] = (
            f"{called}, split {split.name} of {split.tokens:,} tokens{share}, fingerprint "
            f"{store.fingerprint}"
        )
    return facts


def store_name(location: str) -> str:
    """Return the last part of a folder or URL; what follows a URL's path may be a signature."""
    if "://" in location:
        location = re.split(r"[?#]", location, maxsplit=1)[0]
    return location.rstrip("/").rpartition("/")[2]


def _config(folder: Path, notices: list[str]) -> Config | None:
    try:
        return load_config(folder / "config.yaml")
    except ConfigError as error:
        notices.append(f"the model card does not have the run's settings: {error}")
        return None


def _last_record(run: Path, step: int | None, notices: list[str]) -> dict[str, Any]:
    """The record of a step, or of the last one; with the newest held-out loss until then."""
    path = run / "metrics.jsonl"
    if not path.exists():
        return {}
    found, held = dict[str, Any](), dict[str, Any]()
    try:
        for record in each_record(path):
            at = _number(record, "step")
            if not isinstance(at, int) or (step is not None and at > step):
                continue
            found = record
            if (loss := _number(record, "heldout_loss")) is not None:
                held = {"heldout_loss": loss, "heldout_step": at}
    except DataError as error:
        notices.append(f"the model card does not have the run's losses: {error}")
        return {}
    return found | held


def _number(record: Mapping[str, Any], key: str) -> float | None:
    value = record.get(key)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
