"""Documents, ranges of files that hold them, and what should have been a document."""

from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

from tttscale.data.builder.file_formats import Kind, kind_of
from tttscale.data.builder.streams import Stream
from tttscale.errors import DataError

LONGEST_BYTES = 1 << 30
"""Most bytes of one document, or of one JSON line, unless a build allows more."""


class Document(NamedTuple):
    """One text."""

    origin: str
    """The file it comes from, and the line or row in it."""
    data: bytes
    """Its bytes; UTF-8 unless a text file holds something else."""


class BadDocument(NamedTuple):
    """A line, row or file that cannot be used as a document, and why."""

    path: str
    """The file."""
    at: int
    """Byte where its line begins, or number of its row; 0 for a whole file."""
    kind: Kind
    """How the file is read."""
    reason: str
    """Why, in words for all of the kind that follow "documents that are"."""
    detail: str
    """Why, in detail."""

    def refuse(self) -> NoReturn:
        """Refuse it.

        Raises:
            DataError: always; it names the place.
        """
        raise DataError(f"{self.place()}: {self.detail}. {self.remedy}")

    @property
    def remedy(self) -> str:
        """What to do about it."""
        what = {"jsonl": "line", "parquet": "row", "text": "file"}[self.kind]
        skip = f"Correct the {what}, leave such ones out with --skip-bad N"
        if self.reason == TOO_LONG:
            return f"{skip}, or allow more with --longest-document."
        if self.reason == UNDECODABLE:
            return "Leave it out with --skip-undecodable or --suffix, or use --tokenizer bytes."
        return f"{skip}, name the text's key with --text-key, or the file's kind with --format."

    def place(self) -> str:
        """Where it is: file:line, or the row of a file."""
        if self.kind == "jsonl":
            return f"{self.path}:{line_number(self.path, self.at)}: bad JSON line"
        return f"source {self.path}" + (f" row {self.at}" if self.kind == "parquet" else "")


class Finding(NamedTuple):
    """Something noticed in a file that a build reports: a key of `FINDINGS`, and where."""

    what: str
    origin: str


Found = Document | BadDocument | Finding

TOO_LONG, UNDECODABLE, NOT_JSON, NO_TEXT, NO_STRING, NOT_UNICODE, TWICE = (
    "too long",
    "not UTF-8",
    "not JSON",
    "without the text's key",
    "without a string for text",
    "not Unicode",
    "of two texts",
)


class UnfitError(ValueError):
    """A line or row cannot be used as a document."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class FileRange:
    """A range of a file that one worker reads."""

    path: str
    """The file."""
    begin: int
    """Where it begins: a byte of uncompressed JSON lines, a row group of Parquet, else 0."""
    end: int
    """Where it ends, exclusive; a line belongs to the range in which it begins."""
    size_bytes: int
    """Its share of the bytes on disk."""
    declared: Kind | None = None
    """How the file is read, if `--format` says so; None leaves it to its name."""

    @property
    def kind(self) -> Kind:
        """How the file is read."""
        return self.declared or kind_of(self.path) or "text"


def line_number(path: str, at: int) -> int:
    """Count the lines up to byte `at`, where a line begins; done only for an error message."""
    with Stream(path) as file:
        lines = 1
        while at > 0 and (data := file.read(min(at, 1 << 20))):
            lines += data.count(b"\n")
            at -= len(data)
    return lines


def encoded(text: Any, name: str) -> bytes:
    """Encode the text that was found under `name`.

    Raises:
        UnfitError: it is not a string, or not Unicode.
    """
    if not isinstance(text, str):
        raise UnfitError(NO_STRING, f"{name!r} is {type(text).__name__}, not a string")
    try:
        return text.encode()
    except UnicodeEncodeError as error:  # a lone surrogate
        raise UnfitError(NOT_UNICODE, f"{name!r} is not Unicode ({error.reason})") from error
