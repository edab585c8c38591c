"""The tokens that begin, end and pad documents, named by a flag or by files beside the tokenizer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, NoReturn

from tttscale.errors import DataError
from tttscale.reading import read_json

Role = Literal["bos", "eos", "pad"]
ROLES: tuple[Role, ...] = ("bos", "eos", "pad")
NONE = "none"
NAMES: dict[Role, tuple[str, ...]] = {
    "bos": ("<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "[BOS]"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "[EOS]"),
    "pad": ("<pad>", "<|pad|>", "[PAD]"),
}
"""Usual names, for a tokenizer.json that comes alone."""
BESIDE = ("tokenizer_config.json", "special_tokens_map.json")
IDS_BESIDE = "generation_config.json"
LARGEST_BYTES = 64 << 20
_REPAIR = (
    "It names the tokens that begin and end documents. Correct it, or put the tokenizer.json in a folder of "
    "its own with --bos and --eos."
)


class SpecialToken(NamedTuple):
    """The token with a role; there may be none."""

    id: int | None
    """Its id; None if there is none."""
    source: str
    """Where that is said, in a few words."""


def choose_special_tokens(
    vocab: Mapping[str, int], folder: Path | None, named: Mapping[Role, str], name: str
) -> dict[Role, SpecialToken]:
    """Choose the tokens with a role: by flag, by the files beside the tokenizer, by their usual names.

    Args:
        vocab: the tokenizer's tokens.
        folder: the folder of its tokenizer.json; None if the file has another name.
        named: what `--bos`, `--eos` and `--pad` name; "none" for none.
        name: what to call the tokenizer in errors.

    Raises:
        DataError: a token is named that the tokenizer does not have, or a file beside it is damaged.
    """
    beside = _read_beside(folder) if folder is not None else {}
    found: dict[Role, SpecialToken] = {
        role: _choose_one(role, vocab, beside, named.get(role), name) for role in ROLES
    }
    bos, eos = found["bos"], found["eos"]
    if bos.id is not None and bos.id == eos.id and "bos" not in named:
        # As in GPT-2's folder: one token ends a document and begins the next.
        found["bos"] = SpecialToken(None, f"{bos.source}, the same as eos, which is there already")
    return found


def describe_special_tokens(
    chosen: Mapping[Role, SpecialToken], vocab: Mapping[str, int]
) -> dict[str, str]:
    """Describe for people and the manifest which token each is, and where that is said."""
    names = {token_id: f"{token} ({token_id})" for token, token_id in vocab.items()}
    return {
        role: f"{'none' if one.id is None else names.get(one.id, one.id)}, {one.source}"
        for role, one in chosen.items()
    }


def byte_special_tokens(
    named: Mapping[Role, str], ids: Mapping[Role, int]
) -> dict[Role, SpecialToken]:
    """The byte tokenizer's own special tokens, without those that are "none".

    Raises:
        DataError: another token is named.
    """
    for role, token in named.items():
        if token != NONE:
            raise DataError(
                f"--{role} {token}: --tokenizer bytes has its own {role}. Leave the flag out, or give "
                f"--{role} {NONE}."
            )
    own: dict[Role, SpecialToken] = {role: SpecialToken(ids[role], "its own") for role in ROLES}
    for role in named:
        own[role] = SpecialToken(None, f"--{role}")
    return own


def _choose_one(
    role: Role,
    vocab: Mapping[str, int],
    beside: Mapping[str, Mapping[str, Any]],
    named: str | None,
    name: str,
) -> SpecialToken:
    if named is not None:
        return _named(role, named, vocab, f"--{role}", name)
    for file in BESIDE:
        key = f"{role}_token"
        if key in beside.get(file, {}):
            value = beside[file][key]
            token = value.get("content") if isinstance(value, dict) else value
            return _named(role, token or NONE, vocab, file, name, key)
    value = beside.get(IDS_BESIDE, {}).get(f"{role}_token_id")
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(value, int) and not isinstance(value, bool):
        if value not in vocab.values():
            _refuse(role, f"{IDS_BESIDE} names {role}_token_id {value}", name)
        return SpecialToken(value, IDS_BESIDE)
    usual = next((token for token in NAMES[role] if token in vocab), None)
    if usual is None:
        return SpecialToken(None, "nothing names one")
    return SpecialToken(vocab[usual], "by its usual name")


def _named(
    role: Role, token: Any, vocab: Mapping[str, int], source: str, name: str, key: str = ""
) -> SpecialToken:
    if token == NONE:
        return SpecialToken(None, source)
    if not isinstance(token, str) or token not in vocab:
        _refuse(role, f"{source}{' names ' + key if key else ''} {token!r}", name)
    return SpecialToken(vocab[token], source)


def _refuse(role: Role, what: str, name: str) -> NoReturn:
    raise DataError(
        f"{what}, which tokenizer {name} does not have. Name one of its tokens with --{role}, or give "
        f"--{role} {NONE}."
    )


def _read_beside(folder: Path) -> dict[str, Mapping[str, Any]]:
    return {name: found for name in (*BESIDE, IDS_BESIDE) if (found := _read(folder / name))}


def _read(path: Path) -> Mapping[str, Any] | None:
    """Read an object of JSON; None if there is no such file.

    Raises:
        DataError: there is one, but it cannot be used.
    """
    if not path.is_file():
        return None
    found = read_json(path, error=DataError, advice=_REPAIR, limit_bytes=LARGEST_BYTES)
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object of JSON. {_REPAIR}")
    return found
