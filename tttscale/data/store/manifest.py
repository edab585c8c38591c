"""The manifest of a token store, kept in the attributes of its root group."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import TTTScaleError
from tttscale.versions import KEY, is_newer, newer, newer_format

FORMAT = "tttscale-tokens"
TOKENIZER_FILE = "tokenizer.json"
FORMAT_VERSION = 2
SplitName = Literal["train", "heldout"]
FILE_PATTERN = (
    r"^(tokenizer\.json|(train|heldout)/((tokens|document_starts)/)?(zarr\.json|c/[0-9]+))$"
)
"""Keys become paths, so only names that the builder gives are accepted."""
DTypeName = Literal["uint16", "uint32"]
UNKNOWN_TOKENIZER = "0" * 64
"""Stands for the digest of a tokenizer that is not known: ready ids need none."""


class Record(BaseModel):
    """Base of the JSON files that we write: unknown keys are refused, values cannot change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        str_max_length=4096,
        use_attribute_docstrings=True,
    )

    @classmethod
    def refuse_newer(
        cls, fields: dict[str, Any], name: object, error: type[TTTScaleError], wrote: Any
    ) -> None:
        """Raise `error` if a file's format has a number above the one that is known here.

        Call it before digests are compared: a newer format may compute them in another way.
        """
        found = fields.get("format_version")
        if newer_format(found, cls.model_fields["format_version"].default):
            raise error(newer(name, wrote, found))

    @classmethod
    def read(
        cls, fields: Any, name: object, error: type[TTTScaleError], advice: str, wrote: Any = None
    ) -> Self:
        """Check the fields that a file holds.

        Args:
            fields: the file's fields.
            name: the file's name.
            error: the error to raise.
            advice: the next step where it is damaged.
            wrote: the tttscale that wrote it, where `fields` does not hold that under `KEY`.

        Raises:
            TTTScaleError: of the kind `error`: they do not fit, or a newer tttscale wrote the file.
        """
        if not isinstance(fields, dict):
            raise error(f"{name}: damaged: expected a JSON object. {advice}")
        wrote = fields.get(KEY, wrote)
        cls.refuse_newer(fields, name, error, wrote)
        try:
            return cls.model_validate(fields)
        except ValidationError as found:
            if is_newer(wrote):
                raise error(newer(name, wrote)) from None
            problem = found.errors(include_url=False)[0]
            key = ".".join(map(str, problem["loc"])) or "it"
            raise error(f"{name}: damaged: {key:.80}: {problem['msg']}. {advice}") from None


class TokenizerInfo(Record):
    """The tokenizer that made the ids."""

    name: str
    """As `--tokenizer` named it."""
    digest: str
    """sha256 of its definition, hexadecimal."""
    vocab_size: int = Field(gt=0)
    """Every id is below this."""
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None

    @model_validator(mode="after")
    def _check(self) -> Self:
        for special in (self.bos_id, self.eos_id, self.pad_id):
            if special is not None and not 0 <= special < self.vocab_size:
                raise ValueError(f"the special id {special} is outside [0, {self.vocab_size})")
        return self

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "TokenizerInfo":
        """Describe `tokenizer`."""
        return cls(**{field: getattr(tokenizer, field) for field in cls.model_fields})

    @property
    def is_known(self) -> bool:
        """Whether it is said which tokenizer it is."""
        return self.digest != UNKNOWN_TOKENIZER

    @property
    def dtype(self) -> DTypeName:
        """The smallest dtype that holds every id."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    @property
    def filler(self) -> int:
        """The id at padded positions, which are left out of the loss and of the inner gradient."""
        return next(i for i in (self.pad_id, self.eos_id, 0) if i is not None)


class SplitInfo(Record):
    """Sizes of one split."""

    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)
    """Tokens, the documents' bos and eos included."""
    text_bytes: int = Field(ge=0)
    """Bytes of UTF-8 text before tokenization."""


class FileInfo(Record):
    """One file of the store."""

    bytes: int = Field(ge=0)
    blake2b: str
    """16-byte digest, hexadecimal."""
    index: str | None = None
    """8-byte blake2b of the index at the end of a shard, hexadecimal; None for other files. It is
    checked when the shard is first read."""
    index_bytes: int = Field(ge=0, default=0)
    """Size of that index."""


class IdFileInfo(Record):
    """A file of ready token ids that was imported."""

    path: str
    kind: str
    """How it is laid out, for people."""
    dtype: str
    """Dtype of its ids."""
    ids: int = Field(ge=0)
    """How many it holds."""
    tokenizer: str
    """What it says about its tokenizer; empty if nothing."""
    digests: dict[str, str]
    """16-byte blake2b, hexadecimal, of the file and of those that describe it, by their paths."""


class BuildInfo(Record):
    """How the sources were read, and what was left out, changed or noticed on the way."""

    documents_read: int = Field(ge=0)
    """All of them, also those that were left out."""
    counts: dict[str, int] = {}
    """What was noticed how often, by the names in `findings.py`."""
    skipped: dict[str, int] = {}
    """Documents left out since they are bad, by the reason."""
    skipped_examples: list[str] = []
    """Where the first of them are."""
    formats: dict[str, int] = {}
    """How many files were read in which way, and what declared it."""
    special: dict[str, str] = {}
    """Which tokens are bos, eos and pad, and where that is said."""
    ignored: list[str] = []
    """What the tokenizer's file sets and a build does not apply."""
    id_files: list[IdFileInfo] = []
    """The files of ready token ids; a store of texts has no such key."""

    @model_serializer(mode="wrap")
    def _without_absent(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = serialize(self)
        return (
            fields if fields["id_files"] else {k: v for k, v in fields.items() if k != "id_files"}
        )


class StoreInfo(Record):
    """The manifest of a token store."""

    format: Literal["tttscale-tokens"] = FORMAT
    format_version: Literal[2] = FORMAT_VERSION
    tttscale_version: str | None = None
    """The tttscale that built it; stores of 0.1.0 may not have this."""
    tokenizer: TokenizerInfo
    splits: dict[SplitName, SplitInfo]
    sources: list[str]
    """As the command line named them."""
    holdout_fraction: float
    seed: int
    """With `holdout_fraction`, decides which documents are held out."""
    skipped_documents: int = Field(ge=0)
    """Documents left out because they are bad, such as not UTF-8."""
    files: dict[Annotated[str, Field(pattern=FILE_PATTERN)], FileInfo]
    """Every file of the store by its path inside it, but for the root's own `zarr.json`."""
    build: BuildInfo | None = None
    """Missing in stores of older versions."""
    complete: Literal[True] = True

    def attributes(self) -> dict[str, Any]:
        """The root group's attributes: all fields, and a digest of them."""
        fields = self.model_dump()
        return fields | {"digest": manifest_digest(fields)}

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits that change whenever tokenizer or content does."""
        content = {path: file.blake2b for path, file in self.files.items()}
        text = json.dumps([self.tokenizer.digest, content], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def manifest_digest(fields: dict[str, Any]) -> str:
    """16-byte blake2b of a manifest without its digest, hexadecimal."""
    text = json.dumps(fields, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
