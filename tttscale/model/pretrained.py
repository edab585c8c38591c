"""Weights in and out: config.json and safetensors with the official keys. No pickle."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tttscale import __version__
from tttscale.errors import CheckpointError
from tttscale.files import write_text
from tttscale.model.architecture import INERT, SHOWN, TTTConfig
from tttscale.model.registry import check_pattern, names_of
from tttscale.model.weights import (
    CONFIG,
    EMBEDDING,
    WEIGHTS,
    Weights,
    check_folder,
    describe,
    open_weights,
)
from tttscale.reading import parse_json, read_bytes, reason
from tttscale.tensors import shown, write_tensors
from tttscale.versions import KEY, is_newer, newer

TIED = "lm_head.weight"
_OURS = {"architectures": ["TTTForCausalLM"], "model_type": "ttt", "torch_dtype": "float32"}
_CONFIG_BYTES = 4 << 20
_INV_FREQ, _TOKEN_INDEX = "rotary_emb.inv_freq", "seq_modeling_block.token_idx"
"""Tables that the official class computes from its configuration; older files hold them."""
_TABLE_TOLERANCE = 2.0**-7
"""Tables are rounded to bf16 with a model in bf16."""
_PROBLEMS = 5


def save_pretrained(model: Any, directory: str | Path) -> None:
    """Write both files; each appears under its name only once it is whole.

    Raises:
        OSError: the file system refused; nothing half-written is left.
    """
    write_pretrained(directory, model.config, weights_of(model))


def weights_of(model: Any) -> dict[str, Tensor]:
    """Return the tensors that `save_pretrained` writes, by their official keys; no copies."""
    weights = {k: v.detach() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        weights.pop(TIED)
    return weights


def write_pretrained(
    directory: str | Path, config: TTTConfig, weights: Mapping[str, Tensor]
) -> None:
    """Write the files of a model; each appears under its name only once it is whole.

    Args:
        directory: is made if it is missing.
        config: of the model.
        weights: as `weights_of` returns them.

    Raises:
        OSError: the file system refused; nothing half-written is left.
    """
    directory = Path(directory)
    fields = config_fields(config)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        write_tensors(directory / WEIGHTS, weights)
        write_text(directory / CONFIG, json.dumps(fields, indent=2) + "\n")
    except BaseException:
        with suppress(OSError):  # there was something in it before
            directory.rmdir()
        raise


def config_fields(config: TTTConfig, dtype: str = "float32") -> dict[str, Any]:
    """The content of config.json.

    Args:
        config: of the model.
        dtype: of its weights, by its name in torch.
    """
    # Official code does not know these fields: each is written only where it says something.
    unset = {name for name in ("pattern", "options") if not getattr(config, name)}
    return _OURS | {"torch_dtype": dtype, KEY: __version__} | config.model_dump(exclude=unset)


def from_pretrained(
    model_type: Any,
    directory: str | Path,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | Literal["auto"] = torch.float32,
) -> Any:
    """Build a model of `model_type` from a directory; see `TTTForCausalLM.from_pretrained`."""
    directory = Path(directory)
    config = read_config(directory)
    with open_weights(directory) as weights:
        _check_size(directory / CONFIG, config, weights)
        wanted = weights.common_dtype if dtype == "auto" else dtype
        model = model_type(config).to(wanted)
        _load(model, weights, None)
    return model.to(device)


def read_config(directory: Path, *, may_build: bool = True) -> TTTConfig:
    """The model's shape from config.json; fields of other libraries are ignored.

    Args:
        directory: of the model.
        may_build: whether a model will be made from it, so that its layers must be known.

    Raises:
        CheckpointError: no such file, not JSON, of another model, or values out of range.
    """
    path = directory / CONFIG
    check_folder(directory)
    if not path.exists():
        found = "" if (directory / WEIGHTS).exists() else f" ({describe(directory)})"
        raise CheckpointError(
            f"{path} does not exist; a model folder holds {CONFIG} and {WEIGHTS}{found}"
        )
    try:
        fields = parse_json(read_bytes(path, _CONFIG_BYTES))
        if not isinstance(fields, dict):
            raise ValueError("it is no object")
        known = {key: value for key, value in fields.items() if key in TTTConfig.model_fields}
        if is_newer(fields.get(KEY)) and fields.keys() - known.keys() - _OURS.keys() - {KEY}:
            raise CheckpointError(newer(path, fields[KEY]))
        if fields.get("model_type", "ttt") != "ttt":
            raise ValueError(f"its model_type is {fields['model_type']!r:.60}, not 'ttt'")
        config = TTTConfig(**known)
        if may_build:
            check_pattern(config, may_import=False)
        return config
    except ValidationError as error:
        if is_newer(fields.get(KEY)):
            raise CheckpointError(newer(path, fields[KEY])) from None
        problem = first_problem(error)
    except (OSError, ValueError) as error:
        problem = reason(error)
    raise CheckpointError(
        f"{path} is not a TTT model's {CONFIG}: {problem}. Put back the one that was written with the weights"
    )


def first_problem(error: ValidationError) -> str:
    """Say what is wrong with a field, in a few words."""
    problem = error.errors(include_url=False)[0]
    message = problem["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
    name = ".".join(map(str, problem["loc"]))
    return f"{name} = {problem['input']!r:.60}: {message}" if name else message


def load_weights(model: Any, directory: str | Path, *, resuming: bool = False) -> None:
    """Load the weights in a folder into a model, strictly; if that fails, the model is as it was.

    Args:
        model: the model.
        directory: a model folder in any form that `model.weights` knows.
        resuming: the run's own weights, whose settings were compared already.

    Raises:
        CheckpointError: missing, damaged, not finite, other keys or shapes than the model's, or from a model
            that would compute something else with them.
    """
    directory = Path(directory)
    with open_weights(directory) as weights:
        named = os.path.lexists(directory / CONFIG)  # a link to nowhere is none that was left out
        theirs = read_config(directory, may_build=False) if named else None
        if theirs is not None and not resuming:
            _check_fields(directory / CONFIG, theirs, model.config)
        _load(model, weights, theirs)


def _check_fields(path: Path, theirs: TTTConfig, ours: TTTConfig) -> None:
    """Compare what decides what weights mean and what neither their names nor their shapes show."""
    for name in TTTConfig.model_fields.keys() - INERT - SHOWN:
        there, here = getattr(theirs, name), getattr(ours, name)
        if there != here and not (name == "pattern" and _same_layers(theirs, ours)):
            # As JSON, which overrides understand: null and not None, a list and not a tuple.
            there, here = (json.dumps(value, default=str) for value in (there, here))
            raise CheckpointError(
                f"{path} has {name} = {there}, and the model {here}; set model.{name}={there}. To give these "
                f"weights another {name} on purpose, write it into that {CONFIG} first"
            )


def _same_layers(theirs: TTTConfig, ours: TTTConfig) -> bool:
    as_deep = theirs.model_copy(update={"num_hidden_layers": ours.num_hidden_layers})
    return names_of(as_deep) == names_of(ours)


def _check_size(path: Path, config: TTTConfig, weights: Weights) -> None:
    """Before a model is made: one that a mistaken config.json describes may not fit any memory.

    Raises:
        CheckpointError: it would be far larger than the weights that are there.
    """
    width, heads = config.hidden_size, config.num_attention_heads
    layer = (
        3 * width * config.intermediate_size + 4 * width**2 + config.state_floats + heads * width
    )
    layer += config.mini_batch_size + config.tail_floats
    if config.pattern:  # only the layers themselves know; each block has a norm at least
        layer = width
    least = config.vocab_size * width + config.num_hidden_layers * layer
    if least > 2 * weights.elements + 10**6:
        raise CheckpointError(
            f"{path} describes a model of {least:,} parameters or more, but {weights.name} holds "
            f"{weights.elements:,}. They do not belong together: put back both"
        )


def _load(model: nn.Module, weights: Weights, theirs: TTTConfig | None) -> None:
    config: Any = model.config
    wanted = model.state_dict()
    drop_tables(weights, config)
    untied = TIED in weights
    if config.tie_word_embeddings and EMBEDDING in weights and not untied:
        wanted.pop(TIED)
    _check_keys(weights, wanted, config, theirs)
    both = config.tie_word_embeddings and untied
    if both and not torch.equal(weights.read(TIED), weights.read(EMBEDDING)):
        raise CheckpointError(
            f"{weights.name} has a head of its own, but the model's head is its embedding; "
            "set model.tie_word_embeddings=false"
        )
    for key in wanted:  # all of them before the first is written
        weights.read(key)
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(weights.read(key))


def drop_tables(weights: Weights, config: TTTConfig) -> None:
    """Compare tables that are no parameters with the configuration that they come from.

    Raises:
        CheckpointError: the weights were trained with another configuration.
    """
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    tables = {
        _INV_FREQ: ("rope_theta", config.rope_theta**-exponents),
        _TOKEN_INDEX: ("mini_batch_size", 1 / torch.arange(1, config.mini_batch_size + 1).double()),
    }
    for key in list(weights):
        for name, (field, table) in tables.items():
            if not key.endswith(f".{name}"):
                continue
            found = weights.read(key).double().flatten()
            if len(found) != len(table) or ((found - table).abs() > _TABLE_TOLERANCE * table).any():
                raise CheckpointError(
                    f"{weights.name}: the table {shown(key)} is not that of {field} = "
                    f"{getattr(config, field)}; set model.{field} to what the weights were trained with"
                )
            weights.drop(key)


def _check_keys(
    weights: Weights, wanted: dict[str, Tensor], ours: TTTConfig, theirs: TTTConfig | None
) -> None:
    there = set(weights)
    problems = [f"missing {k}" for k in wanted.keys() - there]
    problems += [f"unknown {shown(k)}" for k in there - wanted.keys()]
    problems += [
        f"{k} is {weights.shape(k)}, the model wants {tuple(wanted[k].shape)}"
        for k in wanted.keys() & there
        if weights.shape(k) != wanted[k].shape
    ]
    if problems and (prefix := weights.wrapper_prefix()):
        raise CheckpointError(
            f"{weights.name}: all its tensors have names that begin with {shown(prefix)}, which belongs to a "
            "wrapper and not to the model. Save the model inside: model._orig_mod of torch.compile, "
            "model.module of DistributedDataParallel or DeepSpeed; or rename the tensors"
        )
    if problems:
        listed = "; ".join(sorted(problems)[:_PROBLEMS])
        raise CheckpointError(
            f"{weights.name} does not fit the model ({len(problems)} problems): {listed}"
            f"{_other_shape(ours, theirs)}"
        )


def _other_shape(ours: TTTConfig, theirs: TTTConfig | None) -> str:
    """The fields that make two models' weights fit each other, where they differ."""
    if theirs is None:
        return ""
    pairs = {name: (getattr(theirs, name), getattr(ours, name)) for name in sorted(SHOWN)}
    different = [f"{n} = {a} (the model: {b})" for n, (a, b) in pairs.items() if a != b]
    return f". Its {CONFIG} has {', '.join(different)}" if different else ""
