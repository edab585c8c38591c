"""What decides the content of a store beside its sources: of texts, or of ready token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tttscale.data.builder.documents import LONGEST_BYTES
from tttscale.data.tokenizers.special_tokens import Role
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import DataError

SHARD_TOKENS = 1 << 24
CHUNK_TOKENS = 1 << 16


@dataclass(frozen=True)
class BuildOptions:
    """What decides the content of a store beside its sources.

    Raises:
        DataError: a value is out of its range.
    """

    tokenizer: str | Tokenizer = "bytes"
    """"bytes", the path of a `tokenizer.json`, or a tokenizer."""
    special: Mapping[Role, str] = field(default_factory=dict)
    """Names for bos, eos and pad, or "none"; else the files beside the tokenizer say it."""
    holdout_fraction: float = 0.01
    """Share of the documents that go to the split `heldout`, in [0, 1)."""
    seed: int = 0
    """Which documents these are."""
    text_key: str = "text"
    """Key of the text in a JSON line, or its column in Parquet; a nested one with dots."""
    suffixes: Sequence[str] | None = None
    """Endings of the file names to take from folders; None takes all."""
    exclude: Sequence[str] = ()
    """Names of folders and files to leave out, wherever they are."""
    skip_undecodable: bool = False
    """Leave out documents that are not UTF-8 instead of refusing them. The byte tokenizer takes
    them as they are."""
    skip_bad: int = 0
    """The most other bad documents to leave out: lines that are not JSON, texts that are null, and
    the like."""
    formats: Sequence[str] = ()
    """How files are read where their endings do not say it, or say it wrongly: "text", "jsonl" or
    "parquet" for all, or ".ENDING=KIND"."""
    longest_bytes: int = LONGEST_BYTES
    """Most bytes of one line of JSON, one row, or one compressed document."""
    shard_tokens: int = SHARD_TOKENS
    """Tokens per file, a multiple of `chunk_tokens`."""
    chunk_tokens: int = CHUNK_TOKENS
    """Tokens per compressed Zarr chunk, the unit of reading."""

    def __post_init__(self) -> None:
        _check(self.holdout_fraction, self.shard_tokens, self.chunk_tokens)
        if self.skip_bad < 0 or self.longest_bytes < 1:
            raise DataError(
                f"--skip-bad {self.skip_bad}, --longest-document {self.longest_bytes}: give 0 or "
                "more, and 1 or more."
            )


@dataclass(frozen=True)
class ImportOptions:
    """What decides the content of a store of ready token ids beside its sources.

    Raises:
        DataError: a value is out of its range, or neither or both of tokenizer and vocab_size are given.
    """

    tokenizer: str | Tokenizer | None = None
    """The tokenizer that made the ids: "bytes", the path of a `tokenizer.json`, or a tokenizer."""
    vocab_size: int | None = None
    """Where the tokenizer is not at hand: ids are below this."""
    special: Mapping[Role, str] = field(default_factory=dict)
    """Names for bos, eos and pad, or "none"; with vocab_size their ids. Else the files beside the tokenizer
    say it."""
    dtype: str | None = None
    """Dtype of the ids in files that do not say it."""
    holdout_fraction: float = 0.01
    """Share of the documents that go to the split `heldout`, in [0, 1)."""
    seed: int = 0
    """Which documents these are."""
    suffixes: Sequence[str] | None = None
    """Endings of the file names to take from folders; None takes all."""
    exclude: Sequence[str] = ()
    """Names of folders and files to leave out, wherever they are."""
    shard_tokens: int = SHARD_TOKENS
    """Tokens per file, a multiple of `chunk_tokens`."""
    chunk_tokens: int = CHUNK_TOKENS
    """Tokens per compressed Zarr chunk, the unit of reading."""

    def __post_init__(self) -> None:
        _check(self.holdout_fraction, self.shard_tokens, self.chunk_tokens)
        if (self.tokenizer is None) == (self.vocab_size is None):
            raise DataError(
                "--tokenizer, --vocab-size: give one of them: the tokenizer that made the ids, or where it "
                "is not at hand the number of its ids."
            )
        if self.vocab_size is not None and not 0 < self.vocab_size <= 1 << 32:
            raise DataError(f"--vocab-size {self.vocab_size}: give a number from 1 to {1 << 32}.")


def _check(holdout_fraction: float, shard: int, chunk: int) -> None:
    if not 0 <= holdout_fraction < 1:
        raise DataError(
            f"--heldout {holdout_fraction}: give a number from 0 up to, not including, 1."
        )
    if chunk < 1 or shard < 1 or shard % chunk:
        raise DataError(
            f"shard_tokens {shard}: not a positive multiple of chunk_tokens "
            f"{chunk}. Leave both out for {SHARD_TOKENS} and {CHUNK_TOKENS}."
        )
