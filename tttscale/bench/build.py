"""`tttscale bench build`: how fast a store is built, beside the tokenizer's own speed."""

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tttscale.bench import report
from tttscale.data import BuildOptions, build_store, load_tokenizer
from tttscale.data.builder.read_documents import read_documents
from tttscale.data.builder.source_slices import cut_sources
from tttscale.data.builder.sources import list_files
from tttscale.data.builder.tokenized import BATCH_BYTES
from tttscale.data.tokenizers.tokenizer import Tokenizer
from tttscale.errors import DataError


def bench_build(
    out: Path,
    sources: Sequence[str],
    tokenizer: str,
    suffixes: Sequence[str] | None,
    megabytes: int,
    workers: Sequence[int],
    rounds: int,
) -> str:
    """Measure the tokenizer on texts in memory and whole builds of the same files, in turn.

    Args:
        out: report path without suffix.
        sources: as for `build_store`.
        tokenizer: a tokenizer.json.
        suffixes: endings of the file names to take from folders.
        megabytes: files of about this size in all are taken, from the front.
        workers: numbers of worker processes.
        rounds: every measurement is made so often, in turn; the fastest counts.

    Returns:
        The table.
    """
    codec = load_tokenizer(tokenizer)
    files = _files(sources, suffixes, megabytes * 1_000_000)
    texts = _texts(files, codec)
    cores = len(os.sched_getaffinity(0))
    size = sum(map(len, texts))
    measured: dict[str, Callable[[], float]] = {
        "tokenizer alone, 1 thread": lambda: _tokenize(codec, texts, parallel=False),
        f"tokenizer alone, its own {cores} threads": lambda: _tokenize(codec, texts, parallel=True),
    }
    for count in workers:
        measured[f"build, {count} worker(s)"] = lambda n=count: _build(files, codec, n)
    seconds_of: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, work in measured.items():
            seconds_of[name].append(work())
    best = {name: min(found) for name, found in seconds_of.items()}
    one, own = (best[name] for name in list(best)[:2])
    rows = [_row(name, seconds, size, one, own) for name, seconds in best.items()]
    note = (
        f"{len(files):,} files, {len(texts):,} documents, {size:,} bytes of text that the tokenizer "
        f"({codec.vocab_size:,} ids) can read; fastest of {rounds}. *Tokenizer alone*: encode_batch_fast "
        "on texts in memory, batches of a megabyte, ids turned into arrays. *Build*: everything, from "
        "starting the workers and reading the files to the store with all its digests, synced to disk."
    )
    text = report.table(rows)
    data: list[Any] = [
        {"what": name, "seconds": seconds, "bytes": size} for name, seconds in best.items()
    ]
    report.write(out, "Building a store", [("Result", text), ("What was measured", note)], data)
    return text


def _files(sources: Sequence[str], suffixes: Sequence[str] | None, most_bytes: int) -> list[str]:
    """Files from the front until there is enough; those that are not UTF-8 are left out."""
    chosen, total = [], 0
    for path in list_files(sources, suffixes):
        if total < most_bytes and _is_text(path):
            chosen.append(str(path))
            total += path.stat().st_size
    return chosen


def _is_text(path: Path) -> bool:
    try:
        return bool(path.read_bytes().decode())
    except UnicodeDecodeError:
        return False


def _texts(files: Sequence[str], codec: Tokenizer) -> list[bytes]:
    slices = cut_sources([Path(file) for file in files], ())
    ranges = [file_range for one in slices for file_range in one.file_ranges]
    texts = [d.data for file_range in ranges for d in read_documents(file_range, "text")]
    if not texts:
        raise DataError("SOURCES: no text in them. Name files that hold text, or change --suffix.")
    return texts


def _tokenize(codec: Tokenizer, texts: Sequence[bytes], parallel: bool) -> float:
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if parallel else "false"
    began = time.perf_counter()
    batch, size = [], 0
    for text in [*texts, None]:
        if text is None or size >= BATCH_BYTES:
            codec.encode_batch(batch)
            batch, size = [], 0
        if text is not None:
            batch.append(text)
            size += len(text)
    return time.perf_counter() - began


def _build(files: Sequence[str], codec: Tokenizer, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        build_store(Path(folder, "store"), files, BuildOptions(codec), workers=workers)
        return time.perf_counter() - began


def _row(name: str, seconds: float, size: int, one: float, own: float) -> dict[str, str]:
    return {
        "what": name,
        "seconds": f"{seconds:.2f}",
        "MB/s": f"{size / seconds / 1e6:.2f}",
        "of one thread": f"{one / seconds:.2f}x",
        "of the tokenizer's own threads": f"{own / seconds:.0%}",
    }
