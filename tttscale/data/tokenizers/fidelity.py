"""What of a text its ids do not say: which tokenizers can lose any, and how much one lost."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding
    from tokenizers.normalizers import Normalizer

_SPACES = np.array([i for i in range(0x3001) if chr(i).isspace()], np.uint32)
MARK = "\0what was dropped"
_INNER = ("normalizers", "pretokenizers")


class Fidelity:
    """What a tokenizer's definition says about what it can lose.

    Attributes:
        keeps_all: Every text is covered by tokens that say it, byte by byte if need be; then nothing
            has to be counted. False where that is not certain.
        unknown: The token for what it does not know; None if it has none.
        drops: What it does not know is gone without a trace.
        ignored: What it asks for that would cut, fill up or vary texts.

    Args:
        definition: A `tokenizer.json`, parsed.
    """

    def __init__(self, definition: Mapping[str, Any]) -> None:
        model = definition.get("model") or {}
        self.keeps_all = _keeps_all(definition, model)
        parts = _parts(definition.get("normalizer"))
        self._rewrites = [part for part in parts if not _is_undone(part)]
        self.unknown = _unknown(model)
        self.drops = _is_bpe(model) and self.unknown is None and not self.keeps_all
        self._definition = definition
        asked = {key: definition.get(key) for key in ("truncation", "padding")}
        asked["dropout"] = model.get("dropout")
        self.ignored = [key for key, value in asked.items() if value]

    def marked(self) -> str:
        """The same tokenizer with a token for what it drops, by which that can be counted.

        Its ids are not the tokenizer's: what is dropped lets its neighbours merge.
        """
        model = dict(self._definition["model"])
        vocab = model["vocab"] | {MARK: max(model["vocab"].values(), default=-1) + 1}
        model |= {"vocab": vocab, "unk_token": MARK, "fuse_unk": False}
        plain = {"truncation": None, "padding": None, "post_processor": None}
        return json.dumps({**self._definition, **plain, "model": model})

    def rewriter(self) -> "Normalizer | None":
        """What of its normalizer changes texts in ways that decoding does not undo; None: nothing."""
        if not self._rewrites:
            return None
        from tokenizers import Tokenizer

        normalizer = {"type": "Sequence", "normalizers": self._rewrites}
        model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
        text = json.dumps({"version": "1.0", "normalizer": normalizer, "model": model})
        return Tokenizer.from_str(text).normalizer


def lost_characters(
    text: str, encoding: "Encoding", unknown: int | None, drops: bool
) -> dict[str, int]:
    """How many characters of `text` no token covers, or only the one for unknown ones does.

    Args:
        text: What was encoded.
        encoding: What came of it, with offsets in characters.
        unknown: Id of the token for what is not known.
        drops: That token stands for what is dropped.

    Returns:
        By the keys of `SAID`, without zeros.
    """
    offsets = np.array(encoding.offsets, np.int64).reshape(-1, 2)
    is_unknown = np.array(encoding.ids, np.int64) == (-1 if unknown is None else unknown)
    strange = _covered(offsets[is_unknown], len(text))
    bare = strange if drops else np.zeros(len(text), bool)
    bare = bare | ~_covered(offsets, len(text))
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    spaces = bare & np.isin(codes, _SPACES)
    found = {
        "uncovered_characters": int((bare & ~spaces).sum()),
        "uncovered_spaces": int(spaces.sum()),
        "unknown_characters": 0 if drops else int(strange.sum()),
    }
    return {what: count for what, count in found.items() if count}


def _covered(offsets: np.ndarray, length: int) -> np.ndarray:
    """Which characters lie in one of the ranges [n, 2], bool [length]."""
    begins, ends = (np.bincount(offsets[:, i], minlength=length + 1) for i in (0, 1))
    return np.cumsum(begins - ends)[:length] > 0


def _keeps_all(definition: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    added = definition.get("added_tokens") or []
    # Special ones are not looked for in texts; others may swallow the white space around them.
    swallows = any((t.get("lstrip") or t.get("rstrip")) and not t.get("special") for t in added)
    parts = [*_parts(definition.get("normalizer")), *_parts(definition.get("pre_tokenizer"))]
    removes = any(_removes(part) for part in parts)
    if not _is_bpe(model) or swallows or removes:
        return False
    vocab = model.get("vocab") or {}
    if model.get("byte_fallback"):
        return all(f"<0x{byte:02X}>" in vocab for byte in range(256))
    if not any(part.get("type") == "ByteLevel" for part in parts):
        return False
    from tokenizers.pre_tokenizers import ByteLevel

    prefixed = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    return not prefixed and all(letter in vocab for letter in ByteLevel.alphabet())


def _is_bpe(model: Mapping[str, Any]) -> bool:
    return "merges" in model and model.get("type", "BPE") == "BPE"


def _parts(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A normalizer or pre-tokenizer, and those inside a sequence of them."""
    if part:
        inner = next((part[key] for key in _INNER if key in part), None)
        if inner is None:
            yield part
        for one in inner or ():
            yield from _parts(one)


def _removes(part: Mapping[str, Any]) -> bool:
    """Whether it may take characters out; what is not known here is taken to."""
    kind = part.get("type")
    if kind in ("Split", "Punctuation"):
        return part.get("behavior") == "Removed"
    if kind in ("ByteLevel", "Metaspace", "Digits", "NFC", "NFD", "NFKC", "NFKD", "Prepend"):
        return False
    if kind in ("Lowercase", "UnicodeScripts"):
        return False
    return not (kind == "Replace" and part.get("content"))


def _is_undone(part: Mapping[str, Any]) -> bool:
    """Whether decoders give back what it changed: bytes as letters, and spaces as a visible sign."""
    kind = part.get("type")
    spaces = kind == "Replace" and part.get("pattern") == {"String": " "}
    return kind in ("ByteLevel", "Prepend") or (spaces and part.get("content") == "▁")


def _unknown(model: Mapping[str, Any]) -> str | None:
    token = model.get("unk_token")
    if (
        token is None
        and isinstance(model.get("unk_id"), int)
        and isinstance(model.get("vocab"), list)
    ):
        token = model["vocab"][model["unk_id"]][0]  # Unigram: pairs of token and score
    return token
