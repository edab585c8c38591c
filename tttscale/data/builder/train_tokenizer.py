"""Training a tokenizer: byte-level BPE on a sample of the sources."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from pathlib import Path
from typing import IO

from tttscale.data.builder.documents import BadDocument, Document
from tttscale.data.builder.file_formats import FileFormats
from tttscale.data.builder.read_documents import read_all
from tttscale.data.builder.source_slices import SourceSlice, cut_sources
from tttscale.data.builder.sources import list_files
from tttscale.data.builder.staging import refuse_existing
from tttscale.data.builder.tokenized import content_hash
from tttscale.data.windows.order import stable_hash
from tttscale.errors import DataError
from tttscale.files import replaced
from tttscale.packages import needed

_log = logging.getLogger(__name__)
SAMPLE_BYTES = 1 << 26
EXCERPT_CHARACTERS = 1 << 12
"""Length of what is sampled at once: of a long document a share, as of many short ones."""
END, PAD = "<|endoftext|>", "<pad>"
SMALLEST_VOCABULARY = 256 + 2


def train_tokenizer(
    out: str | Path,
    sources: Sequence[str],
    *,
    vocab_size: int = 32_000,
    sample_bytes: int = SAMPLE_BYTES,
    text_key: str = "text",
    suffixes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    formats: Sequence[str] = (),
    skip_bad: int = 0,
) -> int:
    """Write a `tokenizer.json`: 256 bytes, merges, end of text and padding.

    Excerpts of 4096 characters are sampled by a hash of their document's content, evenly over all
    sources; documents that are not UTF-8 are left out.

    Args:
        out: the file to write.
        sources: as for `build_store`.
        vocab_size: ids in all, special ones included.
        sample_bytes: about how much text to train on.
        text_key: key of the text in a JSON line, or its column in Parquet.
        suffixes: endings of the file names to take from folders; None takes all.
        exclude: names of folders and files to leave out wherever they are.
        formats: how files are read, as for `build_store`.
        skip_bad: the most bad documents to leave out; they are reported.

    Returns:
        the number of ids: fewer than `vocab_size` where the text is too short for so many merges.

    Raises:
        DataError: a source or an argument does not allow it, the sample is empty, or `out` exists or
            cannot be written. No file is left then.
    """
    with needed("tokenizers", "training a tokenizer", "Run `pip install tokenizers`."):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    refuse_existing(Path(out))
    if vocab_size < SMALLEST_VOCABULARY:
        raise DataError(f"--vocab {vocab_size}: give {SMALLEST_VOCABULARY} or more.")
    # The library's stubs leave out constructors and setters that it has.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,  # type: ignore
        special_tokens=[END, PAD],  # type: ignore
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # type: ignore
        show_progress=False,  # type: ignore
    )
    declared = FileFormats.parse(formats)
    files = list_files(sources, suffixes, exclude, declared)
    with _new_file(Path(out)) as file:
        sample = _sample(files, text_key, sample_bytes, declared, skip_bad)
        tokenizer.train_from_iterator(sample, trainer)
        file.write(tokenizer.to_str().encode())
    return tokenizer.get_vocab_size(with_added_tokens=True)


@contextmanager
def _new_file(out: Path) -> Iterator[IO[bytes]]:
    """Open `out` before any work is done, so that a folder without write permission is refused at once."""
    made: list[Path] = []
    try:
        made += [folder for folder in out.parents if not folder.exists()]
        out.parent.mkdir(parents=True, exist_ok=True)
        with replaced(out) as file:
            yield file
    except BaseException as error:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise DataError(
                f"OUT {out}: {error}. Check space and permissions, or name another file."
            ) from error
        raise


def _sample(
    files: Sequence[Path],
    text_key: str,
    sample_bytes: int,
    formats: FileFormats | None = None,
    skip_bad: int = 0,
) -> Iterator[str]:
    slices = cut_sources(files, (), formats)
    total = sum(one.size_bytes for one in slices)
    threshold = int(min(1.0, sample_bytes / max(total, 1)) * 2**64)
    is_empty = no_text = True
    undecodable: list[str] = []
    for document in _documents(slices, text_key, skip_bad):
        no_text = False
        try:
            text = document.data.decode()
        except UnicodeDecodeError:
            undecodable.append(document.origin)
            continue
        for excerpt in _sampled(text, content_hash(document.data), threshold):
            is_empty = False
            yield excerpt
    if undecodable:
        what = "SOURCES: %s documents are not UTF-8 and are left out, the first is %s."
        _log.warning(what, f"{len(undecodable):,}", undecodable[0])
    if no_text:
        raise DataError(
            f"SOURCES {' '.join(map(str, files[:3]))}{' ...' if files[3:] else ''}: no text in them. "
            "Name files that hold text."
        )
    if is_empty:
        raise DataError(
            f"--sample {sample_bytes}: the sample of the sources' {total} bytes is empty. Give more, "
            "or name files that hold text in UTF-8."
        )


def _documents(slices: Sequence[SourceSlice], text_key: str, skip_bad: int) -> Iterator[Document]:
    """Yield the documents with text; leave out up to `skip_bad` bad ones, and report them."""
    bad: list[BadDocument] = []
    ranges = (file_range for one in slices for file_range in one.file_ranges)
    for found in (f for file_range in ranges for f in read_all(file_range, text_key)):
        if isinstance(found, BadDocument):
            bad.append(found)
            if len(bad) > skip_bad:
                found.refuse()
        elif isinstance(found, Document) and found.data:
            yield found
    if bad:
        what = f"{bad[0].place()}: {bad[0].detail}"
        _log.warning("SOURCES: %s bad documents are left out, the first is %s.", len(bad), what)


def _sampled(text: str, identity: int, threshold: int) -> Iterator[str]:
    """Yield what is sampled of a document; excerpts that follow each other stay together."""
    starts = range(0, len(text), EXCERPT_CHARACTERS)
    for taken, group in groupby(starts, lambda at: stable_hash(identity, at) < threshold):
        if taken:
            yield "".join(text[at : at + EXCERPT_CHARACTERS] for at in group)
