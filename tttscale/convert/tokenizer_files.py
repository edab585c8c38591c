"""The files of a tokenizer, and of how to generate, as other programs expect them beside weights."""

import json
from typing import Any

from tttscale.data.tokenizers.byte_definition import byte_definition
from tttscale.data.tokenizers.tokenizer import (
    TOKENIZER_NAME,
    ByteTokenizer,
    JsonTokenizer,
    Tokenizer,
)

_ROLES = ("bos", "eos", "pad")


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Make `tokenizer.json` and `tokenizer_config.json`, which transformers loads as PreTrainedTokenizerFast.

    Names of special tokens that stand in a text are text there, too, as they were in training.
    """
    definition = tokenizer.definition
    if definition is None:
        definition = byte_definition(tokenizer.bos_id is not None)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{role}_token": name for role, name in special_names(tokenizer).items()},
        "padding_side": "left",  # what generate of transformers asks for
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return {TOKENIZER_NAME: definition, "tokenizer_config.json": json_bytes(config)}


def generation_file(tokenizer: Tokenizer | None) -> dict[str, bytes]:
    """Make `generation_config.json`: the special tokens, and that a cache is used."""
    ids = (
        {}
        if tokenizer is None
        else {f"{r}_token_id": getattr(tokenizer, f"{r}_id") for r in _ROLES}
    )
    known = {name: token for name, token in ids.items() if token is not None}
    return {"generation_config.json": json_bytes({**known, "use_cache": True})}


def special_names(tokenizer: Tokenizer) -> dict[str, str | None]:
    """Find the names of bos, eos and pad; None for one that there is not."""
    if not isinstance(tokenizer, ByteTokenizer | JsonTokenizer):
        raise TypeError(f"{type(tokenizer).__name__} has no vocabulary")
    names = {token_id: name for name, token_id in tokenizer.vocab().items()}
    return {role: names.get(getattr(tokenizer, f"{role}_id")) for role in _ROLES}


def json_bytes(fields: dict[str, Any]) -> bytes:
    """A JSON file's content."""
    return (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode()
