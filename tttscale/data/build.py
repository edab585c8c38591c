"""Builds a token store out of texts."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tttscale.data.manifest import SplitInfo, SplitName, StoreInfo, TokenizerInfo
from tttscale.data.order import stable_hash
from tttscale.data.sources import Document, iterate_documents, list_files
from tttscale.data.staging import describe_files, staging, sync
from tttscale.data.tokenizer import Tokenizer, load_tokenizer
from tttscale.data.writer import SplitWriter
from tttscale.errors import DataError

SHARD_TOKENS = 1 << 24
CHUNK_TOKENS = 1 << 16
SPLITS: tuple[SplitName, SplitName] = ("train", "heldout")

Progress = Callable[[int, int], None]
"""Called after every document with the documents and the bytes of text so far."""


def build_store(
    out: str | Path,
    sources: Sequence[str],
    *,
    tokenizer: str | Tokenizer = "bytes",
    holdout_fraction: float = 0.01,
    seed: int = 0,
    text_key: str = "text",
    suffixes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    skip_undecodable: bool = False,
    shard_tokens: int = SHARD_TOKENS,
    chunk_tokens: int = CHUNK_TOKENS,
    progress: Progress | None = None,
) -> StoreInfo:
    """Tokenizes `sources` into a new Zarr store at `out`; the same input gives the same bytes.

    Args:
        out: Folder to make. It appears only when the store is complete.
        sources: Text files, `.jsonl` files and folders.
        tokenizer: "bytes", the path of a `tokenizer.json`, or a tokenizer.
        holdout_fraction: Share of the documents that go to the split `heldout`, in [0, 1).
        seed: Which documents these are.
        text_key: Key of the text in a JSON line.
        suffixes: Endings of the file names to take from folders; None takes all.
        exclude: Names of folders and files to leave out wherever they stand.
        skip_undecodable: Leave out documents that are not UTF-8 instead of refusing them. The
            byte tokenizer takes them as they are.
        shard_tokens: Tokens per file, a multiple of `chunk_tokens`.
        chunk_tokens: Tokens per compressed chunk, the unit of reading.
        progress: Called after every document.

    Raises:
        DataError: An argument, a source or the disk does not allow it. Nothing is left at `out`.
    """
    _check_sizes(holdout_fraction, shard_tokens, chunk_tokens)
    list_files(sources, suffixes, exclude)  # a missing source should fail now, not after an hour
    codec = load_tokenizer(tokenizer) if isinstance(tokenizer, str) else tokenizer
    described = TokenizerInfo.of(codec)
    documents = iterate_documents(sources, text_key=text_key, suffixes=suffixes, exclude=exclude)
    with staging(Path(out)) as folder:
        import zarr

        root = zarr.create_group(folder, attributes={"complete": False})
        writers: dict[SplitName, SplitWriter] = {
            name: SplitWriter(root.create_group(name), described.dtype, chunk_tokens, shard_tokens)
            for name in SPLITS
        }
        skipped = count = read_bytes = 0
        for document in documents:
            read_bytes += len(document.data)
            ids = _encode(codec, document, skip_undecodable)
            if ids is None:
                skipped += 1
            elif len(ids):
                split = SPLITS[is_held_out(count, holdout_fraction, seed)]
                writers[split].append(ids, len(document.data))
                count += 1
            if progress:
                progress(count, read_bytes)
        info = StoreInfo(
            tokenizer=described,
            splits=_close(writers, sources, skipped),
            sources=[str(source) for source in sources],
            holdout_fraction=holdout_fraction,
            seed=seed,
            skipped_documents=skipped,
            files=describe_files(folder),
        )
        root.attrs.put(info.model_dump())
        sync(folder / "zarr.json")
    return info


def is_held_out(document_index: int, fraction: float, seed: int) -> bool:
    """Whether a document goes to `heldout`: a function of its index, so workers need not talk.

    The first document is always trained on and the second always held out (unless `fraction` is 0),
    so that both splits have text as soon as there are two documents.
    """
    if document_index < 2:
        return document_index == 1 and fraction > 0
    return stable_hash(seed, document_index) < fraction * 2**64


def _encode(codec: Tokenizer, document: Document, skip_undecodable: bool) -> np.ndarray | None:
    """Ids of a document between bos and eos; empty if it has none, None if it is to be skipped."""
    try:
        ids = codec.encode(document.data)
    except UnicodeDecodeError as error:
        if skip_undecodable:
            return None
        raise DataError(
            f"{document.origin}: not UTF-8 ({error.reason} at byte {error.start}), which "
            f"tokenizer {codec.name} needs. Leave it out with --skip-undecodable or --suffix, or "
            "use --tokenizer bytes."
        ) from error
    if not len(ids):
        return ids
    _check_ids(ids, codec, document.origin)
    ends = ([] if marker is None else [marker] for marker in (codec.bos_id, codec.eos_id))
    bos, eos = (np.array(marker, ids.dtype) for marker in ends)
    return np.concatenate([bos, ids, eos])


def _check_ids(ids: np.ndarray, codec: Tokenizer, origin: str) -> None:
    """Checks before the cast to the store's dtype, which would wrap -1 to 65535 without a word."""
    bad = np.flatnonzero((ids < 0) | (ids >= codec.vocab_size))
    if len(bad):
        raise DataError(
            f"{origin}: tokenizer {codec.name} gave id {ids[bad[0]]} at token {bad[0]}, outside "
            f"[0, {codec.vocab_size}). Mend the tokenizer given with --tokenizer."
        )


def _check_sizes(holdout_fraction: float, shard_tokens: int, chunk_tokens: int) -> None:
    if not 0 <= holdout_fraction < 1:
        raise DataError(
            f"--heldout {holdout_fraction}: give a number from 0 up to, not including, 1."
        )
    if chunk_tokens < 1 or shard_tokens < 1 or shard_tokens % chunk_tokens:
        raise DataError(
            f"shard_tokens {shard_tokens}: not a positive multiple of chunk_tokens "
            f"{chunk_tokens}. Leave both out for {SHARD_TOKENS} and {CHUNK_TOKENS}."
        )


def _close(
    writers: dict[SplitName, SplitWriter], sources: Sequence[str], skipped: int
) -> dict[SplitName, SplitInfo]:
    splits: dict[SplitName, SplitInfo] = {name: writer.close() for name, writer in writers.items()}
    if not any(split.tokens for split in splits.values()):
        raise DataError(
            f"SOURCES {' '.join(map(str, sources))}: no text in them ({skipped} documents "
            "skipped). Name files that hold text."
        )
    return splits
