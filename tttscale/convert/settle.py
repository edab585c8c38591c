"""The configuration of a model that is imported: what its tensors show, what its files say, what is given."""

import json
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from tttscale.convert.shapes import shown_fields
from tttscale.convert.source import Source
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import CheckpointError, ConfigError
from tttscale.model.architecture import SHOWN, TTTConfig
from tttscale.model.pretrained import TIED, first_problem
from tttscale.model.weights import EMBEDDING

_USUAL = {"rope_theta": 10000.0, "rms_norm_eps": 1e-6}
"""What every configuration of the authors' three repositories has."""
_NO_USUAL = "ttt_base_lr"
Fields = dict[str, Any]


class Given(NamedTuple):
    """What flags say of a model, where its files cannot; None: not given."""

    ttt_base_lr: float | None = None
    rope_theta: float | None = None
    rms_norm_eps: float | None = None


def settle(
    source: Source, given: Given, tokenizer: Tokenizer | None
) -> tuple[TTTConfig, list[str]]:
    """Find the configuration of a source, and drop a head that only repeats the embedding.

    Args:
        source: opened; a tied head is removed from its tensors.
        given: by flags.
        tokenizer: whose ids the model has; None: it is not known.

    Returns:
        The configuration, and lines that say what was not in the source.

    Raises:
        CheckpointError: files contradict each other, or the tokenizer has more tokens than the model.
        ConfigError: a flag is missing, or contradicts the files.
    """
    fields, notices = dict(source.fields), list[str]()
    hidden = _hidden_fields(source, given, notices)
    shown = shown_fields(source)
    if fields.get("pattern"):  # layers of both learners; shapes are compared for each
        shown["ttt_layer_type"] = fields.get("ttt_layer_type", shown["ttt_layer_type"])
    shown["tie_word_embeddings"] = _tie(source)
    for name in sorted(SHOWN & fields.keys() & shown.keys()):
        if fields[name] != shown[name]:
            raise CheckpointError(
                f"{source.config_path} has {name} = {json.dumps(fields[name]):.60}, but {source.path} "
                f"holds a model whose {name} is {json.dumps(shown[name])}. Put back both"
            )
    ids = _token_ids(source, tokenizer)
    config = _config(source, {**fields, **ids, **shown, **hidden})
    source.check(config)
    if tokenizer is None:
        notices.append("no tokenizer is with it, and --tokenizer names none: none is written")
    else:
        notices += _check_vocabulary(source, config, tokenizer)
    return config, notices


def _hidden_fields(source: Source, given: Given, notices: list[str]) -> Fields:
    """Fields that decide what the weights compute, and that no shape shows."""
    found: Fields = {}
    where = source.config_path or source.path
    for name, flagged in given._asdict().items():
        flag, there = "--" + name.replace("_", "-"), source.fields.get(name)
        if flagged is not None and there is not None and flagged != there:
            raise ConfigError(
                f"{flag} {flagged}: {where} has {name} = {json.dumps(there):.60}. Leave the flag out; to "
                f"give the weights another {name} on purpose, write it into that file first"
            )
        if flagged is not None or there is not None:
            found[name] = flagged if there is None else there
        elif name == _NO_USUAL:
            raise ConfigError(
                f"{flag} is needed: {where} does not say the inner learning rate that the weights were "
                f"trained with, and with another one they are another model. The paper has {flag} 1.0 for "
                "TTT-Linear and 0.1 for TTT-MLP; the run's own is ttt_base_lr in its --update_model_config"
            )
        else:
            found[name] = _USUAL[name]
            notices.append(
                f"{name} = {_USUAL[name]:g} is assumed, as in all of the authors' configurations; the source "
                f"does not say it ({flag})"
            )
    return found


def _tie(source: Source) -> bool:
    """Whether head and embedding are one; a head that repeats the embedding is dropped."""
    said = source.fields.get("tie_word_embeddings")
    if TIED not in source.tensors:
        return True
    if said is False:
        return False
    dtype = source.tensors[TIED].dtype
    same = EMBEDDING in source.tensors and torch.equal(
        source.read(TIED, dtype), source.read(EMBEDDING, dtype)
    )
    if same:
        del source.tensors[TIED]
        return True
    if source.config_path is not None:  # without a word there the official class ties them
        raise CheckpointError(
            f"{source.config_path} does not have tie_word_embeddings = false, but {source.path} has a head "
            f"of its own ({source.tensors[TIED].label}). Write false there if the head was trained"
        )
    return False


def _token_ids(source: Source, tokenizer: Tokenizer | None) -> Fields:
    """Ids of bos, eos and pad, where no config.json says them."""
    if source.config_path is not None or tokenizer is None:
        return {}
    return {f"{role}_token_id": getattr(tokenizer, f"{role}_id") for role in ("bos", "eos", "pad")}


def _config(source: Source, fields: Fields) -> TTTConfig:
    try:
        return TTTConfig(**fields)
    except ValidationError as error:
        where = source.config_path or source.path
        raise CheckpointError(
            f"{where} is not of a TTT model: {first_problem(error)}. Put back the one that was written"
        ) from None


def _check_vocabulary(source: Source, config: TTTConfig, tokenizer: Tokenizer) -> list[str]:
    size = tokenizer.vocab_size
    if size > config.vocab_size:
        raise CheckpointError(
            f"{source.path}: the model has {config.vocab_size:,} tokens, but the tokenizer {tokenizer.name} "
            f"has {size:,}: it is not the model's. Name another one with --tokenizer"
        )
    if size == config.vocab_size:
        return []
    return [
        f"the tokenizer {tokenizer.name} has {size:,} tokens, and the model {config.vocab_size:,}: is it the "
        "model's?"
    ]
