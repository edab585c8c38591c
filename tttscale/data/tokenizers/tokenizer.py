"""Tokenizers: raw bytes, or any Hugging Face `tokenizer.json`."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from tttscale.data.tokenizers.byte_definition import byte_vocab, is_byte_definition
from tttscale.data.tokenizers.fidelity import MARK, Fidelity, lost_characters
from tttscale.data.tokenizers.special_tokens import (
    ROLES,
    Role,
    SpecialToken,
    byte_special_tokens,
    choose_special_tokens,
    describe_special_tokens,
)
from tttscale.errors import DataError
from tttscale.packages import needed, one_line
from tttscale.reading import parse_json, read_bytes, reason

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

TOKENIZER_NAME = "tokenizer.json"
_LARGEST_BYTES = 1 << 30


class Encoded(NamedTuple):
    """A text as ids."""

    ids: np.ndarray | None
    """Token ids, integers [n]; None if the text is not UTF-8, which the tokenizer needs."""
    lost: Mapping[str, int] = {}
    """Counts of what of the text is not in the ids, by the keys of `FINDINGS`."""


class Tokenizer(Protocol):
    """What the store builder needs of a tokenizer; every id lies in [0, vocab_size)."""

    name: str
    digest: str
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    definition: bytes | None
    """Its tokenizer.json; None if it is built in."""
    ignored: Sequence[str]
    """What its definition sets that would change texts, and is not applied."""

    @property
    def special(self) -> Mapping[str, str]:
        """Which tokens bos, eos and pad are, and where that is said; for people."""
        ...

    def encode(self, text: str | bytes) -> np.ndarray:
        """Token ids of `text`, integers [n], without bos and eos."""
        ...

    def encode_batch(self, texts: Sequence[bytes]) -> list[np.ndarray | None]:
        """Token ids of each text; None for one that is not UTF-8, which the tokenizer needs."""
        ...

    def encode_counted(self, texts: Sequence[bytes]) -> list[Encoded]:
        """Encode a batch, and count what of each text is lost."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        ...


class ByteTokenizer:
    """One token per byte of UTF-8, and three special ids after the 256 bytes."""

    name = "bytes"
    vocab_size = 259
    bos_id: int | None = 256
    eos_id: int | None = 257
    pad_id: int | None = 258
    definition: bytes | None = None
    digest = hashlib.sha256(b"tttscale bytes: 0..255, bos 256, eos 257, pad 258").hexdigest()
    special: Mapping[str, str] = MappingProxyType({})
    ignored: Sequence[str] = ()

    @classmethod
    def without(cls, named: Mapping[Role, str]) -> "ByteTokenizer":
        """Make one without the special ids for which `named` has "none".

        Raises:
            DataError: it names other tokens.
        """
        codec = cls()
        own = {"bos": cls.bos_id, "eos": cls.eos_id, "pad": cls.pad_id}
        chosen = byte_special_tokens(named, own)  # type: ignore[arg-type]
        codec.assign(chosen)
        codec.special = codec.special if named else {}
        return codec

    def assign(self, chosen: Mapping[Role, SpecialToken]) -> None:
        """Give tokens their roles."""
        self.bos_id, self.eos_id, self.pad_id = (chosen[role].id for role in ROLES)
        self.special = describe_special_tokens(chosen, {})

    def vocab(self) -> dict[str, int]:
        """Its tokens as a `tokenizer.json` writes them, and their ids."""
        return byte_vocab()

    def encode(self, text: str | bytes) -> np.ndarray:
        """Bytes of `text` as uint16 [n]; they need not be UTF-8."""
        data = text.encode() if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).astype(np.uint16)

    def encode_batch(self, texts: Sequence[bytes]) -> list[np.ndarray | None]:
        """Bytes of each text as uint16; never None."""
        return [self.encode(text) for text in texts]

    def encode_counted(self, texts: Sequence[bytes]) -> list[Encoded]:
        """Bytes of each text; no text is ever lost."""
        return [Encoded(ids) for ids in self.encode_batch(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special ids are left out, incomplete characters become U+FFFD."""
        return bytes(i for i in map(int, ids) if i < 256).decode(errors="replace")


class JsonTokenizer:
    """A `tokenizer.json`, through the `tokenizers` library; can be sent to other processes.

    Args:
        definition: the file's bytes.
        name: how to call it in errors and in the store's manifest.
        chosen: its tokens with a role; None chooses by their usual names.

    Raises:
        DataError: the bytes are not a tokenizer.
    """

    def __init__(
        self, definition: bytes, name: str, chosen: Mapping[Role, SpecialToken] | None = None
    ) -> None:
        self.name = name
        self.definition: bytes | None = definition
        self.digest = hashlib.sha256(definition).hexdigest()
        self._tokenizer, self._counter, self._fidelity = _parse(definition, name)
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1  # ids may have holes
        unknown = MARK if self._fidelity.drops else self._fidelity.unknown
        self._unknown_id = self._counter.token_to_id(unknown or "")
        self._normalizer = self._fidelity.rewriter()
        self.ignored: Sequence[str] = self._fidelity.ignored
        self.assign(choose_special_tokens(vocab, None, {}, name) if chosen is None else chosen)

    def assign(self, chosen: Mapping[Role, SpecialToken]) -> None:
        """Give tokens their roles."""
        self._chosen = chosen
        self.bos_id, self.eos_id, self.pad_id = (chosen[role].id for role in ROLES)

    @property
    def special(self) -> Mapping[str, str]:
        """Which tokens bos, eos and pad are, and where that is said; for people."""
        return describe_special_tokens(self._chosen, self.vocab())

    def vocab(self) -> dict[str, int]:
        """Its tokens, added ones too, and their ids."""
        return self._tokenizer.get_vocab(with_added_tokens=True)

    def __reduce__(self) -> tuple[type["JsonTokenizer"], tuple]:
        return JsonTokenizer, (self.definition, self.name, self._chosen)

    def encode(self, text: str | bytes) -> np.ndarray:
        """Token ids of `text`, int64 [n].

        Raises:
            UnicodeDecodeError: `text` is bytes and not UTF-8.
        """
        decoded = text.decode() if isinstance(text, bytes) else text
        return np.array(self._tokenizer.encode(decoded, add_special_tokens=False).ids, np.int64)

    def encode_batch(self, texts: Sequence[bytes]) -> list[np.ndarray | None]:
        """Token ids of each text, int64; None for one that is not UTF-8.

        Raises:
            DataError: the tokenizer cannot encode a text, and has no token for unknown ones.
        """
        decoded = [_decode(text) for text in texts]
        good = [text for text in decoded if text is not None]
        try:
            # The fast variant leaves out the offsets of the tokens, which is half of the work.
            found = iter(self._tokenizer.encode_batch_fast(good, add_special_tokens=False))
        except Exception as error:  # the library's own are of no common kind
            raise DataError(
                f"--tokenizer {self.name}: cannot encode a text: {one_line(error)}. Correct the tokenizer, "
                "or use one with byte fallback or byte-level BPE."
            ) from error
        return [None if text is None else np.array(next(found).ids, np.int64) for text in decoded]

    def encode_counted(self, texts: Sequence[bytes]) -> list[Encoded]:
        """Token ids of each text, and counts of what of it is lost."""
        ids = self.encode_batch(texts)
        if self._fidelity.keeps_all and self._normalizer is None:
            return [Encoded(one) for one in ids]
        decoded, lost = [_decode(text) for text in texts], [{} for _ in texts]
        if not self._fidelity.keeps_all:
            good = [text for text in decoded if text is not None]
            found = iter(self._counter.encode_batch(good, add_special_tokens=False))
            known = (self._unknown_id, self._fidelity.drops)
            lost = [{} if t is None else lost_characters(t, next(found), *known) for t in decoded]
        if self._normalizer is not None:
            for text, counts in zip(decoded, lost, strict=True):
                if text is not None and self._normalizer.normalize_str(text) != text:
                    counts["normalized"] = 1
        return [Encoded(*pair) for pair in zip(ids, lost, strict=True)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)


def load_tokenizer(spec: str, named: Mapping[Role, str] = MappingProxyType({})) -> Tokenizer:
    """Load the tokenizer that `--tokenizer` names.

    Args:
        spec: "bytes", the path of a `tokenizer.json`, or a folder that holds one. Files beside
            one of that name say which tokens begin and end documents.
        named: names for bos, eos and pad, which come first; "none" for none.

    Raises:
        DataError: the file is missing, cannot be read or is not a tokenizer, or a named token is not
            in it.
    """
    if spec == "bytes":
        return ByteTokenizer.without(named)
    path = Path(spec)
    try:
        path = path / TOKENIZER_NAME if path.is_dir() else path
        definition = read_bytes(path, _LARGEST_BYTES)
    except OSError as error:
        raise DataError(
            f"--tokenizer {spec}: {reason(error)}. Give `bytes`, or the path of a tokenizer.json "
            "(or of a folder that holds one) that you may read."
        ) from error
    folder = path.parent if path.name == TOKENIZER_NAME else None
    if is_byte_definition(definition):
        codec = ByteTokenizer()
        codec.assign(choose_special_tokens(codec.vocab(), folder, named, spec))
        return codec
    tokenizer = JsonTokenizer(definition, name=spec)
    tokenizer.assign(choose_special_tokens(tokenizer.vocab(), folder, named, spec))
    tokenizer.name = (
        Path(spec).name or path.name
    )  # so that a store does not depend on the tokenizer's folder
    return tokenizer


def _decode(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _parse(data: bytes, name: str) -> tuple["FastTokenizer", "FastTokenizer", Fidelity]:
    """Return the tokenizer, one that counts what it loses, and what that may be."""
    with needed("tokenizers", f"--tokenizer {name}", "Run `pip install tokenizers`, or use bytes."):
        from tokenizers import Tokenizer as FastTokenizer

    try:
        tokenizer = counter = FastTokenizer.from_buffer(data)
        fidelity = Fidelity(parse_json(data))
        if fidelity.drops:
            counter = FastTokenizer.from_str(fidelity.marked())
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the library is not an Exception
        raise DataError(
            f"--tokenizer {name}: not a tokenizer.json ({error}). Give a file that "
            "`tokenizers.Tokenizer.from_file` can read, or `bytes`."
        ) from error
    for one in (tokenizer, counter):
        # A tokenizer.json may set these; all would silently change the corpus.
        one.no_truncation()
        one.no_padding()
        if "dropout" in fidelity.ignored:
            one.model.dropout = None  # type: ignore[attr-defined]
        if not fidelity.keeps_all:
            one.post_processor = None  # type: ignore[assignment]  (it may trim the offsets)
        one.encode_special_tokens = True  # "</s>" inside a text is text, not its end
    return tokenizer, counter, fidelity
