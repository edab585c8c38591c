"""The byte tokenizer as a `tokenizer.json`, for programs that read nothing else.

A byte-level BPE without merges: token i is byte i, written as the letter that stands for it in all byte-level
vocabularies. It gives the ids of `ByteTokenizer` for every text, and `load_tokenizer` takes it for that one.
"""

import json
from functools import cache
from typing import Any

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
"""Names of tokens 256, 257 and 258."""
_BYTES = 256


@cache
def byte_definition(begins_with_bos: bool) -> bytes:
    """The text of the file, always the same.

    Args:
        begins_with_bos: whether encoding with special tokens puts bos in front.
    """
    definition: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special(_BYTES + i, name) for i, name in enumerate((BOS, EOS, PAD))],
        "normalizer": None,
        "pre_tokenizer": _level(add_prefix_space=False),
        "post_processor": _template() if begins_with_bos else None,
        "decoder": _level(add_prefix_space=False),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {letter: byte for byte, letter in enumerate(_letters())},
            "merges": [],
        },
    }
    return (json.dumps(definition, indent=1, ensure_ascii=False) + "\n").encode()


def byte_vocab() -> dict[str, int]:
    """Its tokens and their ids."""
    return {name: i for i, name in enumerate([*_letters(), BOS, EOS, PAD])}


def is_byte_definition(definition: bytes) -> bool:
    """Whether a `tokenizer.json` is this one."""
    return definition in (byte_definition(True), byte_definition(False))


def _letters() -> list[str]:
    """The letter of each byte: itself where that is visible, else one of those after the 256th."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(_BYTES) if byte not in visible]
    letters = {byte: chr(_BYTES + i) for i, byte in enumerate(hidden)}
    return [letters.get(byte, chr(byte)) for byte in range(_BYTES)]


def _level(add_prefix_space: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": False,
        "use_regex": False,
    }


def _special(token_id: int, name: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": name, **plain, "special": True}


def _template() -> dict[str, Any]:
    bos = {"SpecialToken": {"id": BOS, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, second],
        "special_tokens": {BOS: {"id": BOS, "ids": [_BYTES], "tokens": [BOS]}},
    }
