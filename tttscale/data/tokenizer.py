"""Tokenizers: raw bytes, or any Hugging Face `tokenizer.json`."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from tttscale.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

BOS_NAMES = ("<s>", "<|begin_of_text|>", "<|startoftext|>", "<bos>", "[BOS]")
EOS_NAMES = ("</s>", "<|end_of_text|>", "<|endoftext|>", "<eos>", "[EOS]")
PAD_NAMES = ("<pad>", "<|pad|>", "[PAD]")


class Encoded(NamedTuple):
    """A text as ids.

    Attributes:
        ids: Token ids, integers [n]; None if the text is not UTF-8 though it would have to be.
        lost: What of the text the ids do not say, by the keys of `SAID`.
    """

    ids: np.ndarray | None
    lost: Mapping[str, int] = {}


class Tokenizer(Protocol):
    """What the store builder asks of a tokenizer; every id lies in [0, vocab_size)."""

    name: str
    digest: str
    vocab_size: int
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    definition: bytes | None
    """Its tokenizer.json; None if it is built in."""

    def encode(self, text: str | bytes) -> np.ndarray:
        """Token ids of `text`, integers [n], without bos and eos."""
        ...

    def encode_batch(self, texts: Sequence[bytes]) -> list[np.ndarray | None]:
        """Token ids of each text; None for one that is not UTF-8 though it would have to be."""
        ...

    def encode_counted(self, texts: Sequence[bytes]) -> list[Encoded]:
        """The same, and what of each text is lost."""
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

    def encode(self, text: str | bytes) -> np.ndarray:
        """Bytes of `text` as uint16 [n]; bytes that are not UTF-8 are welcome."""
        data = text.encode() if isinstance(text, str) else text
        return np.frombuffer(data, np.uint8).astype(np.uint16)

    def encode_batch(self, texts: Sequence[bytes]) -> list[np.ndarray | None]:
        """Bytes of each text as uint16; never None."""
        return [self.encode(text) for text in texts]

    def encode_counted(self, texts: Sequence[bytes]) -> list[Encoded]:
        """Bytes of each text; nothing is ever lost."""
        return [Encoded(ids) for ids in self.encode_batch(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special ids are left out, torn characters become U+FFFD."""
        return bytes(i for i in map(int, ids) if i < 256).decode(errors="replace")


class JsonTokenizer:
    """A `tokenizer.json`, through the `tokenizers` library; can be sent to other processes.

    Args:
        definition: The file's bytes.
        name: How to call it in errors and in the store's manifest.

    Raises:
        DataError: They are not a tokenizer.
    """

    def __init__(self, definition: bytes, name: str) -> None:
        self.name = name
        self.definition: bytes | None = definition
        self.digest = hashlib.sha256(definition).hexdigest()
        self._tokenizer = _parse(definition, name)
        vocab = self._tokenizer.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values(), default=-1) + 1  # ids may have holes
        self.bos_id = _first_known(vocab, BOS_NAMES)
        self.eos_id = _first_known(vocab, EOS_NAMES)
        self.pad_id = _first_known(vocab, PAD_NAMES)

    def __reduce__(self) -> tuple[type["JsonTokenizer"], tuple[bytes | None, str]]:
        return JsonTokenizer, (self.definition, self.name)

    def encode(self, text: str | bytes) -> np.ndarray:
        """Token ids of `text`, int64 [n].

        Raises:
            UnicodeDecodeError: `text` is bytes and not UTF-8.
        """
        decoded = text.decode() if isinstance(text, bytes) else text
        return np.array(self._tokenizer.encode(decoded, add_special_tokens=False).ids, np.int64)

    def encode_batch(self, texts: Sequence[bytes]) -> list[np.ndarray | None]:
        """Token ids of each text, int64; None for one that is not UTF-8."""
        decoded = [_decode(text) for text in texts]
        good = [text for text in decoded if text is not None]
        # The fast variant leaves out the offsets of the tokens, which is half of the work.
        found = iter(self._tokenizer.encode_batch_fast(good, add_special_tokens=False))
        return [None if text is None else np.array(next(found).ids, np.int64) for text in decoded]

    def encode_counted(self, texts: Sequence[bytes]) -> list[Encoded]:
        """Token ids of each text, and what of it they do not say."""
        return [Encoded(ids) for ids in self.encode_batch(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of `ids`; special tokens are left out."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)


def load_tokenizer(spec: str) -> Tokenizer:
    """The tokenizer that `--tokenizer` names.

    Args:
        spec: "bytes", the path of a `tokenizer.json`, or a folder that holds one.

    Raises:
        DataError: There is no such file, it may not be read, or it is not a tokenizer.
    """
    if spec == "bytes":
        return ByteTokenizer()
    path = Path(spec)
    try:
        path = path / "tokenizer.json" if path.is_dir() else path
        definition = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"--tokenizer {spec}: {error.strerror}. Give `bytes`, or the path of a tokenizer.json "
            "(or of a folder that holds one) that you may read."
        ) from error
    tokenizer = JsonTokenizer(definition, name=spec)
    tokenizer.name = Path(spec).name or path.name  # a store is the same wherever its tokenizer lay
    return tokenizer


def _decode(text: bytes) -> str | None:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _parse(data: bytes, name: str) -> "FastTokenizer":
    from tokenizers import Tokenizer as FastTokenizer

    try:
        tokenizer = FastTokenizer.from_buffer(data)
    except Exception as error:  # the library raises bare ValueError and Exception
        raise DataError(
            f"--tokenizer {name}: not a tokenizer.json ({error}). Give a file that "
            "`tokenizers.Tokenizer.from_file` can read, or `bytes`."
        ) from error
    # A tokenizer.json may ask for truncation or padding; both would silently change the corpus.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # "</s>" inside a text is text, not the end of it
    return tokenizer


def _first_known(vocab: dict[str, int], names: tuple[str, ...]) -> int | None:
    return next((vocab[name] for name in names if name in vocab), None)
