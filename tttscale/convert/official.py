"""Model folders of the official PyTorch code, of transformers and of tttscale itself; and single files."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tttscale.convert.source import Source, Stored, dtype_name, widest
from tttscale.errors import CheckpointError
from tttscale.model.architecture import TTTConfig
from tttscale.model.pretrained import drop_tables, read_config
from tttscale.model.weights import CONFIG, Weights
from tttscale.reading import read_json
from tttscale.tensors import shown

_TABLES = (".rotary_emb.inv_freq", ".seq_modeling_block.token_idx")
"""What older files hold beside the parameters: it is computed from the configuration."""
_RENAMED = {"conv_before_ttt": "pre_conv"}
"""Fields of the inference repository by their official names."""


def official_source(weights: Weights, folder: Path) -> Source:
    """Take tensors that have the official names.

    Args:
        weights: opened.
        folder: beside whose files a config.json may be.
    """
    tensors = {
        key: Stored(
            shown(key), weights.dtype(key), weights.shape(key), partial(weights.stored, key)
        )
        for key in weights
        if not key.endswith(_TABLES)
    }
    fields, config_path = read_fields(folder)
    kind = f"official PyTorch layout, {described(tensors)}"
    check = partial(drop_tables, weights)
    return Source(weights.name, kind, tensors, fields, config_path, check, weights.paths)


def read_fields(folder: Path) -> tuple[Mapping[str, Any], Path | None]:
    """Read those fields of a folder's config.json that a TTT model has.

    Returns:
        The fields that it has, by their official names, and the file; none without one.

    Raises:
        CheckpointError: it cannot be read, or is of another kind of model.
    """
    path = folder / CONFIG
    if not path.exists() and not path.is_symlink():
        return {}, None
    read_config(folder, may_build=False)  # the values of all fields
    found = read_json(path, error=CheckpointError, advice="Put back the one that was written")
    named = {_RENAMED.get(name, name): value for name, value in found.items()}
    return {name: value for name, value in named.items() if name in TTTConfig.model_fields}, path


def described(tensors: Mapping[str, Stored]) -> str:
    """Say how many tensors there are, and in which dtype."""
    found = {stored.dtype for stored in tensors.values()}
    dtype = dtype_name(widest(found)) if found else "no dtype"
    return f"{len(tensors)} tensors in {dtype}{' and others' if len(found) > 1 else ''}"
