"""Builds a token store out of texts: cut into pieces, tokenize each, write the shards."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from tttscale import __version__
from tttscale.cluster import Ranks, discover_place
from tttscale.data.builder.documents import LONGEST_BYTES, UNDECODABLE
from tttscale.data.builder.file_formats import Formats
from tttscale.data.builder.shards import describe, prepare_arrays, write_shard
from tttscale.data.builder.source_slices import Piece, cut
from tttscale.data.builder.sources import list_files
from tttscale.data.builder.staging import Staging, disk_errors, locked, refuse_existing
from tttscale.data.builder.store_plan import Holdout, ShardJob, StoreLayout, lay_out
from tttscale.data.builder.tally import Notes
from tttscale.data.builder.tokenized import Meter, Recipe, Run, make_run, too_many
from tttscale.data.progress import Progress
from tttscale.data.store.findings import SAID, said
from tttscale.data.store.manifest import (
    TOKENIZER_FILE,
    BuildInfo,
    FileInfo,
    StoreInfo,
    TokenizerInfo,
)
from tttscale.data.store.storage import zarr_needed
from tttscale.data.tokenizers.special_tokens import Role
from tttscale.data.tokenizers.tokenizer import Tokenizer, load_tokenizer
from tttscale.data.workers import Crew
from tttscale.errors import DataError
from tttscale.files import replaced, sync

_log = logging.getLogger(__name__)
SHARD_TOKENS = 1 << 24
CHUNK_TOKENS = 1 << 16


def build_store(
    out: str | Path,
    sources: Sequence[str],
    *,
    tokenizer: str | Tokenizer = "bytes",
    special: Mapping[Role, str] = MappingProxyType({}),
    holdout_fraction: float = 0.01,
    seed: int = 0,
    text_key: str = "text",
    suffixes: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    skip_undecodable: bool = False,
    skip_bad: int = 0,
    formats: Sequence[str] = (),
    longest_bytes: int = LONGEST_BYTES,
    shard_tokens: int = SHARD_TOKENS,
    chunk_tokens: int = CHUNK_TOKENS,
    workers: int = 1,
    ranks: Ranks | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> StoreInfo:
    """Tokenizes `sources` into a new Zarr store at `out`; the same input gives the same bytes.

    Neither workers, ranks nor interruptions change a byte of it. A build that ended early leaves
    OUT.building with the pieces that were done, and the same call goes on from there.

    Args:
        out: Folder to make. It appears only when the store is complete.
        sources: Text, JSON lines and Parquet files, folders of them, globs.
        tokenizer: "bytes", the path of a `tokenizer.json`, or a tokenizer.
        special: Names for bos, eos and pad, or "none"; else the files beside the tokenizer say it.
        holdout_fraction: Share of the documents that go to the split `heldout`, in [0, 1).
        seed: Which documents these are.
        text_key: Key of the text in a JSON line, or its column in Parquet; a nested one with dots.
        suffixes: Endings of the file names to take from folders; None takes all.
        exclude: Names of folders and files to leave out wherever they stand.
        skip_undecodable: Leave out documents that are not UTF-8 instead of refusing them. The
            byte tokenizer takes them as they are.
        skip_bad: How many other documents may be left out since they are bad: lines that are no
            JSON, texts that are null, and the like.
        formats: How files are read where their endings do not say it, or say it wrongly: "text",
            "jsonl" or "parquet" for all, or ".ENDING=KIND".
        longest_bytes: What one line of JSON, one row or one document that was compressed may have.
        shard_tokens: Tokens per file, a multiple of `chunk_tokens`.
        chunk_tokens: Tokens per compressed chunk, the unit of reading.
        workers: Processes of this host that tokenize.
        ranks: This process's place under mpirun, all of whose ranks call this alike and see one
            file system; None builds alone.
        progress: Called now and then on every rank.

    Raises:
        DataError: An argument, a source or the disk does not allow it. Nothing is left at `out`.
        LaunchError: `ranks` says that there are several, but MPI knows of one.
    """
    _check_sizes(holdout_fraction, shard_tokens, chunk_tokens, workers)
    if skip_bad < 0 or longest_bytes < 1:
        raise DataError(
            f"--skip-bad {skip_bad}, --longest-document {longest_bytes}: give 0 or more, and 1 or more."
        )
    declared = Formats.parse(formats)
    zarr_needed()
    codec = load_tokenizer(tokenizer, special) if isinstance(tokenizer, str) else tokenizer
    recipe = Recipe(codec, text_key, longest_bytes, skip_undecodable, skip_bad)
    crew = Crew(ranks or discover_place({}), workers)
    staging = Staging(out)
    build = _Build(staging, crew, recipe, declared, progress or (lambda state: None))
    with (
        crew.together(),
        disk_errors(staging.root),
        _one_builder(staging, crew),
        _one_core_each(),
    ):
        if crew.is_lead:
            _mention_tokenizer(codec)
        pieces = crew.lead(
            lambda: build.plan(list_files(sources, suffixes, exclude, declared, staging.root))
        )
        build.tokenize(pieces)
        layout = crew.lead(
            lambda: build.lay_out(pieces, holdout_fraction, seed, chunk_tokens, shard_tokens)
        )
        if not any(split.tokens for split in layout.splits.values()):
            _refuse_nothing(sources, crew.lead(lambda: build.notes(pieces)), codec)
        files = build.write(layout)
        return crew.lead(lambda: build.publish(layout, pieces, files, [*map(str, sources)]))


class _Build:
    def __init__(
        self,
        staging: Staging,
        crew: Crew,
        recipe: Recipe,
        formats: Formats,
        progress: Callable[[Progress], None],
    ) -> None:
        self._staging, self._crew, self._recipe, self._formats = staging, crew, recipe, formats
        self._progress = progress
        self._described = TokenizerInfo.of(recipe.codec)

    def plan(self, files: Sequence[Path]) -> list[Piece]:
        """The pieces of `files`."""
        return cut(files, self._recipe.identity, self._formats)

    def tokenize(self, pieces: Sequence[Piece]) -> None:
        """Makes the runs that are not there yet."""
        runs = self._staging.runs
        todo = self._crew.lead(
            lambda: [p for p in _distinct(pieces) if not self._run(p.name).is_done]
        )
        mine = todo[self._crew.rank :: self._crew.size]
        total = sum(piece.size_bytes for piece in mine)

        def report(count: int) -> None:
            fraction = count / max(len(mine), 1)
            state = Progress("tokenize", int(total * fraction), total, *self._crew.counters.read())
            self._progress(state)

        self._crew.share(
            tokenize_piece, todo, runs, self._described.dtype, self._recipe, progress=report
        )

    def lay_out(
        self, pieces: Sequence[Piece], fraction: float, seed: int, chunk: int, shard: int
    ) -> StoreLayout:
        """Gives every document its place, and makes room for what is to be written.

        Raises:
            DataError: More documents are bad than may be left out.
        """
        notes = self.notes(pieces)
        if self._recipe.bad_documents(notes) > self._recipe.skip_bad:
            count = f"{self._recipe.bad_documents(notes):,}"
            raise too_many(self._recipe, notes, count, notes.bad[0])
        order = [piece.name for piece in pieces]
        tables = {name: self._run(name).table() for name in order}
        holdout = Holdout.choose(fraction, seed, list(tables.values()))
        layout = lay_out(
            tables, order, holdout, dtype=self._described.dtype, chunk=chunk, shard=shard
        )
        self._staging.forget_others(layout.name, set(order))
        store, receipts = self._staging.store(layout.name), self._staging.receipts(layout.name)
        prepare_arrays(store, receipts, layout)
        return layout

    def write(self, layout: StoreLayout) -> dict[str, FileInfo]:
        """Writes all shards; on the lead, returns what they became."""
        jobs = layout.jobs()

        def report(count: int) -> None:
            self._progress(Progress("write", count, max(len(jobs) // self._crew.size, 1)))

        name, staging = layout.name, self._staging
        folders = staging.store(name), staging.receipts(name), staging.runs
        done = self._crew.share(assemble_shard, jobs, *folders, layout, progress=report)
        return {job.key: info for job, info in zip(jobs, done, strict=False)}

    def publish(
        self,
        layout: StoreLayout,
        pieces: Sequence[Piece],
        shards: dict[str, FileInfo],
        sources: list[str],
    ) -> StoreInfo:
        """Writes the manifest, last of all, and lets the store appear."""
        import zarr

        store = self._staging.store(layout.name)
        if self._recipe.codec.definition is not None:
            with replaced(store / TOKENIZER_FILE) as file:
                file.write(self._recipe.codec.definition)
        metadata = [p for p in store.rglob("*") if p.name in ("zarr.json", TOKENIZER_FILE)]
        files = shards | {
            path.relative_to(store).as_posix(): describe(path)
            for path in metadata
            if path != store / "zarr.json"
        }
        notes = self.notes(pieces)
        info = StoreInfo(
            tttscale_version=__version__,
            tokenizer=self._described,
            splits=layout.splits,
            sources=sources,
            holdout_fraction=layout.holdout.fraction,
            seed=layout.holdout.seed,
            skipped_documents=notes.skipped.total(),
            files=dict(sorted(files.items())),
            build=self._how(notes, pieces),
        )
        zarr.open_group(store, mode="r+").attrs.put(info.attributes())
        for path in [p for p in store.rglob("*") if p.is_dir()]:
            sync(path)
        sync(store / "zarr.json")
        self._staging.publish(layout.name)
        _mention(notes, info)
        return info

    def notes(self, pieces: Sequence[Piece]) -> Notes:
        """What was noticed in all pieces."""
        return Notes.together(self._run(piece.name).notes() for piece in pieces)

    def _how(self, notes: Notes, pieces: Sequence[Piece]) -> BuildInfo:
        files = dict.fromkeys(Path(span.path) for piece in pieces for span in piece.spans)
        return BuildInfo(
            documents_read=notes.documents,
            counts={what: notes.counts[what] for what in SAID if notes.counts[what]},
            skipped=dict(sorted(notes.skipped.items())),
            skipped_examples=[f"{bad.place()}: {bad.detail}" for bad in notes.bad],
            formats=self._formats.used(files),
            special=dict(self._recipe.codec.special),
            ignored=list(self._recipe.codec.ignored),
        )

    def _run(self, name: str) -> Run:
        return Run(self._staging.runs, name, self._described.dtype)


def _distinct(pieces: Sequence[Piece]) -> list[Piece]:
    """A file named twice is tokenized once."""
    return list({piece.name: piece for piece in pieces}.values())


def tokenize_piece(piece: Piece, runs: Path, dtype: str, recipe: Recipe, meter: Meter) -> None:
    """A worker's first task."""
    make_run(Run(runs, piece.name, dtype), piece, recipe, meter)


def assemble_shard(
    job: ShardJob, store: Path, receipts: Path, runs: Path, layout: StoreLayout, meter: Meter
) -> FileInfo:
    """A worker's second task."""
    meter.add(0, 0, 0)
    return write_shard(job, store, receipts, runs, layout)


@contextmanager
def _one_builder(staging: Staging, crew: Crew) -> Iterator[None]:
    """The lead holds the lock for all its ranks."""
    if not crew.is_lead:
        yield
        return
    staging.prepare()
    with locked(staging):
        refuse_existing(staging.out)
        try:
            yield
        finally:  # with the lock, or it could be another builder's folder
            staging.discard_if_empty()


@contextmanager
def _one_core_each() -> Iterator[None]:
    """One worker is one core: the tokenizer's own threads would fight over them."""
    key = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(key)
    os.environ[key] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def _refuse_nothing(sources: Sequence[str], notes: Notes, codec: Tokenizer) -> NoReturn:
    asked = f"SOURCES {' '.join(map(str, sources))}"
    undecodable = notes.skipped[UNDECODABLE]
    if undecodable and undecodable == notes.documents:
        raise DataError(
            f"{asked}: --skip-undecodable left out all {undecodable:,} documents, since none is "
            f"UTF-8, which tokenizer {codec.name} needs. Name files that are, or use --tokenizer bytes."
        )
    found = [f"{count:,} are {why}" for why, count in sorted(notes.skipped.items())]
    found += [said(what, count) for what, count in notes.counts.items()]
    of_them = f" (of {notes.documents:,} documents {'; '.join(found)})" if found else ""
    raise DataError(f"{asked}: no text in them{of_them}. Name files that hold text.")


def _mention_tokenizer(codec: Tokenizer) -> None:
    """Says before the work what may not be meant."""
    if codec.bos_id is None and codec.eos_id is None:
        _log.warning(
            "--tokenizer %s: no bos and no eos, so nothing stands between documents: they run "
            "together. Name a token that does with --eos.",
            codec.name,
        )
    if codec.ignored:
        _log.warning(
            "--tokenizer %s: its %s would change texts and is not applied.",
            codec.name,
            " and ".join(codec.ignored),
        )


def _mention(notes: Notes, info: StoreInfo) -> None:
    """Says what was left out, changed and noticed."""
    assert info.build is not None
    for what, count in info.build.counts.items():
        _log.warning("SOURCES: %s; the first is %s.", said(what, count), notes.firsts[what])
    for why, count in info.build.skipped.items():
        _log.warning("SOURCES: %s documents that are %s are left out.", f"{count:,}", why)
    for example in info.build.skipped_examples:
        _log.warning("  %s", example)


def _check_sizes(
    holdout_fraction: float, shard_tokens: int, chunk_tokens: int, workers: int
) -> None:
    if not 0 <= holdout_fraction < 1:
        raise DataError(
            f"--heldout {holdout_fraction}: give a number from 0 up to, not including, 1."
        )
    if chunk_tokens < 1 or shard_tokens < 1 or shard_tokens % chunk_tokens:
        raise DataError(
            f"shard_tokens {shard_tokens}: not a positive multiple of chunk_tokens "
            f"{chunk_tokens}. Leave both out for {SHARD_TOKENS} and {CHUNK_TOKENS}."
        )
    if workers < 1:
        raise DataError(f"--workers {workers}: give 1 or more.")
