"""Building a token store: slice the sources, make tokens of each slice, write the shards."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tttscale import __version__
from tttscale.cluster import Ranks, discover_place
from tttscale.data.builder.corpus import Corpus, Slice
from tttscale.data.builder.id_corpus import IdCorpus
from tttscale.data.builder.options import BuildOptions, ImportOptions
from tttscale.data.builder.reports import warn_about_tally
from tttscale.data.builder.shards import describe, prepare_arrays, write_shard
from tttscale.data.builder.staging import Staging, disk_errors, locked, refuse_existing
from tttscale.data.builder.store_plan import Holdout, ShardJob, StorePlan, plan_store
from tttscale.data.builder.tally import Tally
from tttscale.data.builder.text_corpus import TextCorpus
from tttscale.data.builder.tokenized import TokenizedSlice
from tttscale.data.progress import Progress
from tttscale.data.store.manifest import TOKENIZER_FILE, FileInfo, StoreInfo
from tttscale.data.store.storage import require_zarr
from tttscale.data.workers import Meter, WorkerGroup
from tttscale.errors import DataError
from tttscale.files import replaced, sync


def build_store(
    out: str | Path,
    sources: Sequence[str],
    options: BuildOptions | None = None,
    *,
    workers: int = 1,
    ranks: Ranks | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> StoreInfo:
    """Tokenize `sources` into a new Zarr store at `out`; the same input gives the same bytes.

    Neither workers, ranks nor interruptions change a byte of it. A build that ended early leaves
    OUT.building with the slices that were done, and the same call resumes from there.

    Args:
        out: folder to make. It appears only when the store is complete.
        sources: text, JSON lines and Parquet files, folders of them, globs.
        options: what else decides the content of the store.
        workers: processes of this host that tokenize.
        ranks: this process's place under mpirun, where all ranks make the same call and see the
            same file system; None builds alone.
        progress: called from time to time on every rank.

    Raises:
        DataError: an argument, a source or the disk does not allow it. No file is left at `out`.
        LaunchError: `ranks` says that there are several, but MPI finds one.
    """
    options = options or BuildOptions()
    return _build(out, lambda: TextCorpus(sources, options), options, workers, ranks, progress)


def import_ids(
    out: str | Path,
    sources: Sequence[str],
    options: ImportOptions,
    *,
    workers: int = 1,
    ranks: Ranks | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> StoreInfo:
    """Copy ready token ids into a new Zarr store at `out`; the same input gives the same bytes.

    Like `build_store`, but no text is tokenized.

    Args:
        out: folder to make. It appears only when the store is complete.
        sources: `.npy`, `.bin` with `.idx`, and `.ds` files, folders of them, globs.
        options: the tokenizer or the size of its vocabulary, and what else decides the store.
        workers: processes of this host that copy.
        ranks: as for `build_store`.
        progress: called from time to time on every rank.

    Raises:
        DataError: an argument, a source or the disk does not allow it. No file is left at `out`.
        LaunchError: `ranks` says that there are several, but MPI finds one.
    """
    return _build(out, lambda: IdCorpus(sources, options), options, workers, ranks, progress)


def _build(
    out: str | Path,
    make_corpus: Callable[[], Corpus],
    options: BuildOptions | ImportOptions,
    workers: int,
    ranks: Ranks | None,
    progress: Callable[[Progress], None] | None,
) -> StoreInfo:
    if workers < 1:
        raise DataError(f"--workers {workers}: give 1 or more.")
    require_zarr()
    builder = _Builder(out, make_corpus(), options, workers, ranks, progress)
    with (
        builder.workers.abort_on_error(),
        disk_errors(builder.staging.root),
        _only_builder(builder.staging, builder.workers),
        _one_core_per_worker(),
    ):
        return builder.build()


class _Builder:
    """One build, as every rank of it runs it."""

    def __init__(
        self,
        out: str | Path,
        corpus: Corpus,
        options: BuildOptions | ImportOptions,
        workers: int,
        ranks: Ranks | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._corpus, self._options = corpus, options
        self._progress = progress or (lambda state: None)
        self._dtype = corpus.tokenizer.dtype
        # After what can be refused without MPI: a rank that fails later takes the others with it.
        self.workers = WorkerGroup(ranks or discover_place({}), workers)
        self.staging = Staging(out)

    def build(self) -> StoreInfo:
        """Go through all phases; what the main rank decides, all ranks do."""
        if self.workers.is_main:
            self._corpus.announce()
        slices = self.workers.on_main(lambda: self._corpus.slices(self.staging.root))
        self.tokenize(slices)
        plan = self.workers.on_main(lambda: self.plan(slices))
        if not any(split.tokens for split in plan.splits.values()):
            tally = self.workers.on_main(lambda: self._tally(slices))
            self._corpus.refuse_empty(tally)
        files = self.write(plan)
        return self.workers.on_main(lambda: self.publish(plan, slices, files))

    def tokenize(self, slices: Sequence[Slice]) -> None:
        """Make tokens of the slices that are not done yet."""
        todo = self.workers.on_main(
            lambda: [one for one in _distinct(slices) if not self._tokenized(one.name).is_done]
        )
        mine = todo[self.workers.rank :: self.workers.size]
        total = sum(one.size_bytes for one in mine)

        def report(count: int) -> None:
            """Tell the share of the bytes that is done."""
            done_bytes = int(total * count / max(len(mine), 1))
            counted = self.workers.counters.read()
            self._progress(Progress(self._corpus.phase, done_bytes, total, *counted))

        common = self.staging.tokenized, self._dtype, self._corpus
        self.workers.map(tokenize_task, todo, *common, progress=report)

    def plan(self, slices: Sequence[Slice]) -> StorePlan:
        """Give every document its place, and make the empty arrays.

        Raises:
            DataError: what was noticed in the slices does not allow it.
        """
        self._corpus.check(self._tally(slices))
        order, options = [one.name for one in slices], self._options
        tables = {name: self._tokenized(name).table() for name in order}
        holdout = Holdout.choose(options.holdout_fraction, options.seed, list(tables.values()))
        plan = plan_store(
            tables,
            order,
            holdout,
            dtype=self._dtype,
            chunk=options.chunk_tokens,
            shard=options.shard_tokens,
        )
        self.staging.remove_others(plan.name, set(order))
        prepare_arrays(self.staging.store(plan.name), self.staging.receipts(plan.name), plan)
        return plan

    def write(self, plan: StorePlan) -> dict[str, FileInfo]:
        """Write all shards; on the main rank, return their sizes and digests."""
        jobs = plan.jobs()

        def report(count: int) -> None:
            """Tell the shards that are done."""
            self._progress(Progress("write", count, max(len(jobs) // self.workers.size, 1)))

        staging = self.staging
        folders = staging.store(plan.name), staging.receipts(plan.name), staging.tokenized
        done = self.workers.map(write_task, jobs, *folders, plan, progress=report)
        return {job.key: info for job, info in zip(jobs, done, strict=False)}

    def publish(
        self, plan: StorePlan, slices: Sequence[Slice], shards: dict[str, FileInfo]
    ) -> StoreInfo:
        """Write the manifest, last of all, and move the store to its place."""
        import zarr

        store, tally = self.staging.store(plan.name), self._tally(slices)
        info = self._manifest(plan, slices, tally, shards | self._small_files(store))
        zarr.open_group(store, mode="r+").attrs.put(info.attributes())
        for path in [p for p in store.rglob("*") if p.is_dir()]:
            sync(path)
        sync(store / "zarr.json")
        self.staging.publish(plan.name)
        warn_about_tally(tally, info)
        return info

    def _small_files(self, store: Path) -> dict[str, FileInfo]:
        """Write the tokenizer's file; return it and the metadata of the arrays."""
        definition = self._corpus.definition
        if definition is not None:
            with replaced(store / TOKENIZER_FILE) as file:
                file.write(definition)
        paths = [p for p in store.rglob("*") if p.name in ("zarr.json", TOKENIZER_FILE)]
        return {
            path.relative_to(store).as_posix(): describe(path)
            for path in paths
            if path != store / "zarr.json"
        }

    def _manifest(
        self,
        plan: StorePlan,
        slices: Sequence[Slice],
        tally: Tally,
        files: dict[str, FileInfo],
    ) -> StoreInfo:
        return StoreInfo(
            tttscale_version=__version__,
            tokenizer=self._corpus.tokenizer,
            splits=plan.splits,
            sources=[*map(str, self._corpus.sources)],
            holdout_fraction=plan.holdout.fraction,
            seed=plan.holdout.seed,
            skipped_documents=tally.skipped.total(),
            files=dict(sorted(files.items())),
            build=self._corpus.build_info(slices, tally),
        )

    def _tally(self, slices: Sequence[Slice]) -> Tally:
        """What was left out and noticed in all slices."""
        return Tally.sum(self._tokenized(one.name).tally() for one in slices)

    def _tokenized(self, name: str) -> TokenizedSlice:
        return TokenizedSlice(self.staging.tokenized, name, self._dtype)


def tokenize_task(source: Slice, folder: Path, dtype: str, corpus: Corpus, meter: Meter) -> None:
    """A worker's first kind of task: one slice."""
    corpus.tokenize(source, TokenizedSlice(folder, source.name, dtype), meter)


def write_task(
    job: ShardJob, store: Path, receipts: Path, tokenized: Path, plan: StorePlan, meter: Meter
) -> FileInfo:
    """A worker's second kind of task: one shard."""
    meter.add(0, 0, 0)
    return write_shard(job, store, receipts, tokenized, plan)


def _distinct(slices: Sequence[Slice]) -> list[Slice]:
    """Each slice once: a file that is named twice is tokenized once."""
    return list({one.name: one for one in slices}.values())


@contextmanager
def _only_builder(staging: Staging, workers: WorkerGroup) -> Iterator[None]:
    """Keep other builders out: the main rank holds the lock for all its ranks."""
    if not workers.is_main:
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
def _one_core_per_worker() -> Iterator[None]:
    """Switch off the tokenizer's own threads, which would compete with the workers for cores."""
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
