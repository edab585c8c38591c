"""Which tokens stand before, behind and between documents: said by a flag or by the tokenizer's folder."""

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
_MEND = (
    "It says which tokens begin and end documents. Mend it, or put the tokenizer.json in a folder of its own "
    "with --bos and --eos."
)


class Special(NamedTuple):
    """A token with a role, or that there is none.

    Attributes:
        id: Its id; None if there is none.
        source: Who says so, in a few words.
    """

    id: int | None
    source: str


def choose(
    vocab: Mapping[str, int], folder: Path | None, asked: Mapping[Role, str], name: str
) -> dict[Role, Special]:
    """The tokens with a role: by flag, by the files beside the tokenizer, by their usual names.

    Args:
        vocab: The tokenizer's tokens.
        folder: Where its tokenizer.json lies; None if it is of another name.
        asked: What `--bos`, `--eos` and `--pad` name; "none" for none.
        name: What to call the tokenizer in errors.

    Raises:
        DataError: A token is named that the tokenizer does not have, or a file beside it is damaged.
    """
    beside = _read_beside(folder) if folder is not None else {}
    found: dict[Role, Special] = {
        role: _choose_one(role, vocab, beside, asked.get(role), name) for role in ROLES
    }
    bos, eos = found["bos"], found["eos"]
    if bos.id is not None and bos.id == eos.id and "bos" not in asked:
        # As in GPT-2's folder: one token ends a document and begins the next.
        found["bos"] = Special(None, f"{bos.source}, the same as eos, which stands there already")
    return found


def described(chosen: Mapping[Role, Special], vocab: Mapping[str, int]) -> dict[str, str]:
    """For people and the manifest: which token each is, and who said so."""
    names = {token_id: f"{token} ({token_id})" for token, token_id in vocab.items()}
    return {
        role: f"{'none' if one.id is None else names.get(one.id, one.id)}, {one.source}"
        for role, one in chosen.items()
    }


def of_bytes(asked: Mapping[Role, str], ids: Mapping[Role, int]) -> dict[Role, Special]:
    """The byte tokenizer's own, which may be left out.

    Raises:
        DataError: Others are named.
    """
    for role, token in asked.items():
        if token != NONE:
            raise DataError(
                f"--{role} {token}: --tokenizer bytes has its own {role}. Leave the flag out, or give "
                f"--{role} {NONE}."
            )
    own: dict[Role, Special] = {role: Special(ids[role], "its own") for role in ROLES}
    for role in asked:
        own[role] = Special(None, f"--{role}")
    return own


def _choose_one(
    role: Role,
    vocab: Mapping[str, int],
    beside: Mapping[str, Mapping[str, Any]],
    asked: str | None,
    name: str,
) -> Special:
    if asked is not None:
        return _named(role, asked, vocab, f"--{role}", name)
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
        return Special(value, IDS_BESIDE)
    usual = next((token for token in NAMES[role] if token in vocab), None)
    if usual is None:
        return Special(None, "nothing names one")
    return Special(vocab[usual], "by its usual name")


def _named(
    role: Role, token: Any, vocab: Mapping[str, int], source: str, name: str, key: str = ""
) -> Special:
    if token == NONE:
        return Special(None, source)
    if not isinstance(token, str) or token not in vocab:
        _refuse(role, f"{source}{' names ' + key if key else ''} {token!r}", name)
    return Special(vocab[token], source)


def _refuse(role: Role, what: str, name: str) -> NoReturn:
    raise DataError(
        f"{what}, which tokenizer {name} does not have. Name one of its tokens with --{role}, or give "
        f"--{role} {NONE}."
    )


def _read_beside(folder: Path) -> dict[str, Mapping[str, Any]]:
    return {name: found for name in (*BESIDE, IDS_BESIDE) if (found := _read(folder / name))}


def _read(path: Path) -> Mapping[str, Any] | None:
    """An object of JSON; None if there is no such file.

    Raises:
        DataError: There is one, but it cannot be used.
    """
    if not path.is_file():
        return None
    found = read_json(path, error=DataError, advice=_MEND, limit_bytes=LARGEST_BYTES)
    if not isinstance(found, dict):
        raise DataError(f"{path}: expected an object of JSON. {_MEND}")
    return found
