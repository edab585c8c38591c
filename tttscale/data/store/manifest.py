"""What a token store says about itself; kept in the attributes of its root group."""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tttscale.data.store.findings import said
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
"""Keys become paths, so nothing but the names that the builder gives is let in."""
DTypeName = Literal["uint16", "uint32"]


class Record(BaseModel):
    """Base of what is written down beside tokens: unknown keys are refused, values cannot change."""

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

        To be asked before digests are compared: a newer format may compute them in another way.
        """
        found = fields.get("format_version")
        if newer_format(found, cls.model_fields["format_version"].default):
            raise error(newer(name, wrote, found))

    @classmethod
    def read(
        cls, fields: Any, name: object, error: type[TTTScaleError], advice: str, wrote: Any = None
    ) -> Self:
        """The record that a file holds.

        Args:
            fields: what it holds.
            name: of the file.
            error: what to raise.
            advice: the next step where it is damaged.
            wrote: the tttscale that wrote it, where `fields` does not hold that under `KEY`.

        Raises:
            TTTScaleError: of the kind `error`: it is none, or was written by a newer tttscale.
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
    """How the builder's user named it."""
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
        """The description of `tokenizer`."""
        return cls(**{field: getattr(tokenizer, field) for field in cls.model_fields})

    @property
    def dtype(self) -> DTypeName:
        """The smallest dtype that holds every id."""
        return "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    @property
    def filler(self) -> int:
        """The id that stands at padded positions, which no loss and no inner gradient sees."""
        return next(i for i in (self.pad_id, self.eos_id, 0) if i is not None)


class SplitInfo(Record):
    """Sizes of one split."""

    documents: int = Field(ge=0)
    tokens: int = Field(ge=0)
    """Tokens with the documents' bos and eos."""
    text_bytes: int = Field(ge=0)
    """Bytes of UTF-8 text before tokenization."""


class FileInfo(Record):
    """One file of the store."""

    bytes: int = Field(ge=0)
    blake2b: str
    """16-byte digest, hexadecimal."""
    index: str | None = None
    """Of a shard: 8-byte blake2b of the index at its end, hexadecimal, checked at every reading."""
    index_bytes: int = Field(ge=0, default=0)
    """Size of that index."""


class BuildInfo(Record):
    """How the sources were read, and what was left out, changed or noticed on the way."""

    documents_read: int = Field(ge=0)
    """With those that were left out."""
    counts: dict[str, int] = {}
    """What was noticed how often, by the names in `said.py`."""
    skipped: dict[str, int] = {}
    """Documents left out since they are bad, by the reason."""
    skipped_examples: list[str] = []
    """Where the first of them are."""
    formats: dict[str, int] = {}
    """How many files were read how, and who said so."""
    special: dict[str, str] = {}
    """Which tokens are bos, eos and pad, and who said so."""
    ignored: list[str] = []
    """What the tokenizer's file asks for and a store is built without."""


class StoreInfo(Record):
    """The manifest of a token store."""

    format: Literal["tttscale-tokens"] = FORMAT
    format_version: Literal[2] = FORMAT_VERSION
    tttscale_version: str | None = None
    """That built it; stores of 0.1.0 may not say."""
    tokenizer: TokenizerInfo
    splits: dict[SplitName, SplitInfo]
    sources: list[str]
    """As the builder's user named them."""
    holdout_fraction: float
    seed: int
    """Decides, with `holdout_fraction`, which documents are held out."""
    skipped_documents: int = Field(ge=0)
    """Left out because they are bad: not UTF-8, for one."""
    files: dict[Annotated[str, Field(pattern=FILE_PATTERN)], FileInfo]
    """Every file of the store by its path inside it, but for the root's own `zarr.json`."""
    build: BuildInfo | None = None
    """Not there in stores of older versions."""
    complete: Literal[True] = True

    def attributes(self) -> dict[str, Any]:
        """What the root group's attributes hold: all fields, and a digest of them."""
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


def render_info(info: StoreInfo) -> str:
    """A few lines for people: `tttscale data info STORE`."""
    tokenizer = info.tokenizer
    on_disk = sum(file.bytes for file in info.files.values())
    lines = [f"{'split':<10}{'documents':>14}{'tokens':>20}{'text bytes':>20}{'bytes/token':>14}"]
    for name, split in info.splits.items():
        ratio = f"{split.text_bytes / split.tokens:.2f}" if split.tokens else "-"
        sizes = f"{split.documents:>14,}{split.tokens:>20,}{split.text_bytes:>20,}"
        lines.append(f"{name:<10}{sizes}{ratio:>14}")
    special = f"bos {tokenizer.bos_id}, eos {tokenizer.eos_id}, pad {tokenizer.pad_id}"
    lines += [
        f"tokenizer   {tokenizer.name} ({tokenizer.vocab_size:,} ids, {special})",
        f"            sha256 {tokenizer.digest}",
        f"on disk     {on_disk:,} bytes in {len(info.files):,} files of {tokenizer.dtype}",
        f"sources     {', '.join(info.sources)}",
        f"held out    {_held_out(info)}",
        f"fingerprint {info.fingerprint}",
    ]
    documents = sum(split.documents for split in info.splits.values())
    if documents and tokenizer.bos_id is None and tokenizer.eos_id is None:
        lines.append("separator   none: nothing stands between documents")
    return "\n".join(lines + _build_lines(info))


def _build_lines(info: StoreInfo) -> list[str]:
    build = info.build
    if build is None:  # of an older version, which skipped for one reason only
        only = f"skipped     {info.skipped_documents:,} documents that are not UTF-8"
        return [only] if info.skipped_documents else []
    lines = [f"{role:<12}{which}" for role, which in build.special.items()]
    lines += [f"read        {build.documents_read:,} documents"]
    lines += [f"            {count:,} files {how}" for how, count in build.formats.items()]
    lines += [f"skipped     {n:,} documents that are {why}" for why, n in build.skipped.items()]
    lines += [f"            {example}" for example in build.skipped_examples]
    lines += [f"noticed     {said(what, count)}" for what, count in build.counts.items()]
    lines += [f"ignored     the tokenizer's {what}" for what in build.ignored]
    return lines


def _held_out(info: StoreInfo) -> str:
    """What was asked for and what came of it: of few documents at least one is held out."""
    counts = {name: split.documents for name, split in info.splits.items()}
    total, held = sum(counts.values()), counts.get("heldout", 0)
    if not total:
        return "documents are not known"
    asked = f"{info.holdout_fraction:.2%} asked for, seed {info.seed}"
    alone = "" if held or not info.holdout_fraction else ": equal documents, or one, do not part"
    return f"{held:,} of {total:,} documents, {held / total:.2%} ({asked}){alone}"
