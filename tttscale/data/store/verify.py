"""`tttscale data verify`: read every byte of a store and report what is damaged where."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tttscale.cluster import Ranks, discover_place
from tttscale.data.progress import Progress
from tttscale.data.store.integrity import parse_manifest, root_attributes
from tttscale.data.store.manifest import StoreInfo
from tttscale.data.store.plain import is_plain
from tttscale.data.store.quarantine import (
    QUARANTINE_FILE,
    DamagedRange,
    Quarantine,
    read_quarantine,
)
from tttscale.data.store.storage import Folder, Storage, located, open_storage
from tttscale.data.store.token_store import TokenStore
from tttscale.data.workers import Meter, WorkerGroup
from tttscale.errors import DataError
from tttscale.files import digest_of
from tttscale.location import Location


@dataclass(frozen=True)
class Damage:
    """One damaged place of a store."""

    file: str
    """Its path inside the store."""
    reason: str
    """What is wrong."""
    begin: int = 0
    """First value of the array that cannot be trusted; 0 for metadata."""
    end: int = 0
    """End of these values, exclusive; 0 for metadata."""


@dataclass(frozen=True)
class Report:
    """What a verification found."""

    location: str
    """The store's place."""
    fingerprint: str
    """The store's fingerprint."""
    files: int
    """Files read."""
    size_bytes: int
    """Bytes read."""
    seconds: float
    """How long it took."""
    damages: tuple[Damage, ...]
    """What is damaged, by file."""
    strangers: tuple[str, ...]
    """Files that do not belong to the store; they are harmless."""

    def to_json(self) -> dict[str, Any]:
        """All fields, for `--report`."""
        return asdict(self)

    def render(self) -> str:
        """Write a few lines for people."""
        rate = self.size_bytes / 1e6 / max(self.seconds, 1e-9)
        lines = [
            f"{self.location}: {self.files:,} files, {self.size_bytes:,} bytes read in "
            f"{self.seconds:.1f} s ({rate:,.0f} MB/s), fingerprint {self.fingerprint}"
        ]
        for damage in self.damages:
            where = f" [{damage.begin:,}, {damage.end:,})" if damage.end else ""
            lines.append(f"DAMAGED  {damage.file}{where}: {damage.reason}")
        lines += [f"not part of the store: {name}" for name in self.strangers]
        bad = len({damage.file for damage in self.damages})
        lines.append(f"{bad} of {self.files:,} files are damaged" if bad else "whole")
        return "\n".join(lines)


def verify_store(
    location: str | Path,
    *,
    workers: int = 1,
    ranks: Ranks | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Read every file, compare it with its digest, decode every chunk, check every id.

    Args:
        location: folder or URL of a store.
        workers: processes of this host.
        ranks: this process's place under mpirun; None verifies alone.
        progress: called from time to time on every rank.

    Returns:
        all that was found; on other ranks than the first, an empty report.

    Raises:
        DataError: it is not a store, or its manifest is damaged.
    """
    began = time.perf_counter()
    location = located(location)
    storage = open_storage(location)
    attributes = root_attributes(storage)
    if not attributes and is_plain(storage):
        raise DataError(
            f"{storage.location}: plain arrays have no digests to verify. Missing chunks and ids outside the "
            "vocabulary are refused when they are read; for more, build a store with `tttscale data build`."
        )
    info = parse_manifest(attributes, storage.location)
    group = WorkerGroup(ranks or discover_place({}), workers)
    keys = list(info.files)
    mine = len(keys[group.rank :: group.size])

    def report(count: int) -> None:
        if progress:
            progress(Progress("verify", count, mine))

    with group.abort_on_error():
        found = group.map(check_file, keys, location, time.time_ns(), progress=report)
    present = storage.sizes()
    known = {*info.files, "zarr.json", QUARANTINE_FILE}
    return Report(
        location=storage.location,
        fingerprint=info.fingerprint,
        files=len(keys),
        size_bytes=sum(info.files[key].bytes for key in keys),
        seconds=time.perf_counter() - began,
        damages=tuple(damage for damages in found for damage in damages),
        strangers=tuple(sorted(set(present or ()) - known)),
    )


def folder_to_mark(location: str | Path) -> Path:
    """The store's folder, to write a quarantine file to.

    Raises:
        DataError: the store is behind a URL.
    """
    storage = open_storage(location)
    if not isinstance(storage, Folder):
        raise DataError(
            f"--quarantine {storage.location}: only a store in a folder can be marked. Verify a copy with "
            f"--quarantine, then put its {QUARANTINE_FILE} beside the zarr.json of this one."
        )
    return storage.path


def quarantine(location: str | Path, report: Report) -> Quarantine:
    """Write what `report` found into the store's quarantine file; removes it if all is well.

    Raises:
        DataError: damage is outside of the tokens, or the store is remote.
    """
    folder = folder_to_mark(location)
    for damage in report.damages:
        if "/tokens/c/" not in damage.file:
            raise DataError(
                f"--quarantine: {damage.file} is damaged, and only ranges of tokens can be "
                "quarantined. Fetch the store again, or build it again."
            )
    ranges = [
        DamagedRange(
            split="train" if d.file.startswith("train/") else "heldout",
            begin=d.begin,
            end=d.end,
            file=d.file,
            reason=d.reason,
        )
        for d in report.damages
    ]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = Quarantine(fingerprint=report.fingerprint, found=now, ranges=tuple(ranges))
    if ranges:
        found.write(folder)
    else:
        (folder / QUARANTINE_FILE).unlink(missing_ok=True)
    return found


def advice(location: str | Path, report: Report) -> str | None:
    """The next step after `report`; None if the store is whole.

    Raises:
        DataError: the store has a quarantine file of another store.
    """
    storage = open_storage(location)
    location = storage.location
    known = read_quarantine(storage, report.fingerprint)
    again = "run this" if isinstance(storage, Folder) else "verify a copy"
    if not report.damages:
        return known and (
            f"{location} is whole, but {QUARANTINE_FILE} lists ranges of it, which data.damaged=pad "
            "reads as padding. Run this with --quarantine, or remove that file."
        )
    fresh = [d for d in report.damages if not known or not known.holds(d.file, d.begin, d.end)]
    if not fresh:
        return (
            f"{location} is damaged, and all of that is quarantined. Train with data.damaged=pad, or "
            "fetch or build it again."
        )
    new = f", {len(fresh)} of {len(report.damages)} places not quarantined" if known else ""
    return (
        f"{location} is damaged{new}. Fetch or build it again, or {again} with --quarantine and "
        "train with data.damaged=pad."
    )


def check_file(key: str, location: Location, started: int, meter: Meter) -> list[Damage]:
    """A worker's task: find everything that is wrong with one file."""
    meter.add(0, 0, 0)
    storage, info = _opened(location, started)
    data = storage.read(key)
    intact = data is not None and digest_of(data) == info.files[key].blake2b
    if "/c/" not in key:
        reason = "is missing" if data is None else "was changed"
        return [] if intact else [Damage(key, reason)]
    try:
        shard = _Shard(TokenStore(storage, info), key)
    except Exception as error:  # metadata so broken that Zarr cannot open it
        return [Damage(key, f"cannot be read, its array's metadata is damaged ({error})")]
    if data is None:
        return [Damage(key, "is missing", shard.begin, shard.end)]
    damages = list(shard.check_values())
    if not intact and not damages:
        wanted = info.files[key].bytes
        change = f"has {len(data)} bytes instead of {wanted}" if len(data) != wanted else "changed"
        damages.append(Damage(key, f"{change}, though it decodes", shard.begin, shard.end))
    return damages


@lru_cache(maxsize=1)
def _opened(location: Location, started: int) -> tuple[Storage, StoreInfo]:
    """Open a store once per worker and verification, since a large store has a large manifest."""
    storage = open_storage(location)
    return storage, parse_manifest(root_attributes(storage), storage.location)


class _Shard:
    def __init__(self, store: TokenStore, key: str) -> None:
        self.key = key
        split, self.name, _, index = key.split("/")
        sizes = store.info.splits[split]  # type: ignore[index]
        length = sizes.tokens if self.name == "tokens" else sizes.documents
        self.array = store.array(f"{split}/{self.name}", length)
        assert self.array.shards is not None
        self.begin = int(index) * self.array.shards[0]
        self.end = min(self.begin + self.array.shards[0], length)
        # Document starts are below the number of tokens, tokens below the number of ids.
        self.bound = store.info.tokenizer.vocab_size if self.name == "tokens" else sizes.tokens

    def check_values(self) -> Iterator[Damage]:
        """Decode the shard at once, or by chunks where that fails: a flipped bit costs one chunk only."""
        try:
            values = np.asarray(self.array[self.begin : self.end])
        except DataError as error:  # the index: no chunk of this shard can be found
            yield Damage(self.key, f"cannot be opened: {error}", self.begin, self.end)
            return
        except Exception:  # every codec has its own kinds
            yield from self._check_chunks()
            return
        if len(values) and int(values.max()) >= self.bound:
            first = int(np.argmax(values >= self.bound)) // self.array.chunks[0]
            begin = self.begin + first * self.array.chunks[0]
            reason = f"holds {values.max()}, more than the {self.bound - 1} allowed"
            yield Damage(self.key, reason, begin, self.end)
        elif self.name == "document_starts" and np.any(np.diff(values.astype(np.int64)) <= 0):
            yield Damage(self.key, "does not ascend", self.begin, self.end)

    def _check_chunks(self) -> Iterator[Damage]:
        chunk = self.array.chunks[0]
        for begin in range(self.begin, self.end, chunk):
            end = min(begin + chunk, self.end)
            try:
                self.array[begin:end]
            except Exception as error:
                yield Damage(self.key, f"does not decode: {error}", begin, end)
