"""What of a text is not in its ids: which tokenizers can lose any of it, and how much one lost."""

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
    """What a tokenizer can lose of a text, by its definition.

    Args:
        definition: a `tokenizer.json`, parsed.
    """

    def __init__(self, definition: Mapping[str, Any]) -> None:
        model = definition.get("model") or {}
        self.keeps_all = _keeps_all(definition, model)
        """Whether every text is covered by tokens, byte by byte if need be, so that nothing has to
        be counted. False where that is not certain."""
        steps = _steps(definition.get("normalizer"))
        self._rewrites = [step for step in steps if not _is_undone(step)]
        self.unknown = _unknown(model)
        """The token for unknown characters; None if it has none."""
        self.drops = _is_bpe(model) and self.unknown is None and not self.keeps_all
        """Whether unknown characters are dropped."""
        self._definition = definition
        settings = {key: definition.get(key) for key in ("truncation", "padding")}
        settings["dropout"] = model.get("dropout")
        self.ignored = [key for key, value in settings.items() if value]
        """What it sets that would cut, pad or vary texts, and is not applied."""

    def marked(self) -> str:
        """Define the same tokenizer with a token for what it drops, by which that can be counted.

        Its ids differ from the tokenizer's: the neighbours of a dropped character may merge.
        """
        model = dict(self._definition["model"])
        vocab = model["vocab"] | {MARK: max(model["vocab"].values(), default=-1) + 1}
        model |= {"vocab": vocab, "unk_token": MARK, "fuse_unk": False}
        plain = {"truncation": None, "padding": None, "post_processor": None}
        return json.dumps({**self._definition, **plain, "model": model})

    def rewriter(self) -> "Normalizer | None":
        """Return the steps of its normalizer that decoding does not undo; None if there are none."""
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
    """Count the characters of `text` that no token covers, or only the one for unknown ones.

    Args:
        text: what was encoded.
        encoding: its encoding, with offsets in characters.
        unknown: id of the token for unknown characters.
        drops: whether that token is for dropped characters.

    Returns:
        counts by the keys of `FINDINGS`, without zeros.
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
    # SpecialToken ones are not looked for in texts; others may swallow the white space around them.
    swallows = any((t.get("lstrip") or t.get("rstrip")) and not t.get("special") for t in added)
    steps = [*_steps(definition.get("normalizer")), *_steps(definition.get("pre_tokenizer"))]
    removes = any(_removes(step) for step in steps)
    if not _is_bpe(model) or swallows or removes:
        return False
    vocab = model.get("vocab") or {}
    if model.get("byte_fallback"):
        return all(f"<0x{byte:02X}>" in vocab for byte in range(256))
    if not any(step.get("type") == "ByteLevel" for step in steps):
        return False
    from tokenizers.pre_tokenizers import ByteLevel

    prefixed = model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    return not prefixed and all(letter in vocab for letter in ByteLevel.alphabet())


def _is_bpe(model: Mapping[str, Any]) -> bool:
    return "merges" in model and model.get("type", "BPE") == "BPE"


def _steps(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield a normalizer or pre-tokenizer, or those of a sequence of them."""
    if step:
        inner = next((step[key] for key in _INNER if key in step), None)
        if inner is None:
            yield step
        for one in inner or ():
            yield from _steps(one)


def _removes(step: Mapping[str, Any]) -> bool:
    """Whether it may remove characters; unknown kinds count as if they did."""
    kind = step.get("type")
    if kind in ("Split", "Punctuation"):
        return step.get("behavior") == "Removed"
    if kind in ("ByteLevel", "Metaspace", "Digits", "NFC", "NFD", "NFKC", "NFKD", "Prepend"):
        return False
    if kind in ("Lowercase", "UnicodeScripts"):
        return False
    return not (kind == "Replace" and step.get("content"))


def _is_undone(step: Mapping[str, Any]) -> bool:
    """Whether decoders restore what it changed: bytes as letters, and spaces as a visible sign."""
    kind = step.get("type")
    spaces = kind == "Replace" and step.get("pattern") == {"String": " "}
    return kind in ("ByteLevel", "Prepend") or (spaces and step.get("content") == "▁")


def _unknown(model: Mapping[str, Any]) -> str | None:
    token = model.get("unk_token")
    if (
        token is None
        and isinstance(model.get("unk_id"), int)
        and isinstance(model.get("vocab"), list)
    ):
        token = model["vocab"][model["unk_id"]][0]  # Unigram: pairs of token and score
    return token
