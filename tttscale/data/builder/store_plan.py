"""The plan of a store: which values go into which shard, fixed before the first shard is written."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from tttscale.data.builder.tokenized import HASH, LENGTH, TEXT_BYTES
from tttscale.data.store.manifest import SplitInfo, SplitName

SPLITS: tuple[SplitName, SplitName] = ("train", "heldout")
ARRAYS = ("tokens", "document_starts")


@dataclass(frozen=True)
class Holdout:
    """Which documents are held out: a function of their bytes, so equal ones are never separated."""

    fraction: float
    """Share of the documents."""
    seed: int
    """Which."""
    threshold: int
    """A document is held out if the hash of its bytes, mixed with the seed, is below."""

    @classmethod
    def choose(cls, fraction: float, seed: int, tables: Sequence[np.ndarray]) -> "Holdout":
        """Make sure that both splits get a document where there are two that differ."""
        threshold = int(fraction * 2**64)
        if fraction > 0:
            bounds = [_mixed(t[:, HASH], seed) for t in tables if len(t)]
            low, high = (int(f([f(b) for b in bounds])) if bounds else 0 for f in (min, max))
            if low < high:
                threshold = min(max(threshold, low + 1), high)
        return cls(fraction, seed, threshold)

    def mask(self, table: np.ndarray, split: SplitName) -> np.ndarray:
        """Which documents of a slice's table belong to `split`, bool [documents]."""
        if self.threshold == 0:
            held = np.zeros(len(table), bool)
        else:
            held = _mixed(table[:, HASH], self.seed) <= np.uint64(self.threshold - 1)
        return held if split == "heldout" else ~held


def _mixed(hashes: np.ndarray, seed: int) -> np.ndarray:
    """splitmix64 of `hashes` and a seed, uint64 [n]: another seed holds out other documents."""
    salt = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    value = hashes ^ np.frombuffer(salt, "<u8")
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(31))


@dataclass(frozen=True)
class PlacedSlice:
    """A tokenized slice inside one array of a split."""

    name: str
    """The slice's name."""
    first: int
    """Index of its first value in the array."""
    count: int
    """Its values."""
    first_token: int
    """Index of its first token in the split."""


@dataclass(frozen=True)
class ShardJob:
    """One shard to write: values [begin, end) of `split`/`array`, out of `slices`."""

    split: SplitName
    array: str
    index: int
    begin: int
    end: int
    slices: tuple[PlacedSlice, ...]

    @property
    def key(self) -> str:
        """Path of the shard inside the store."""
        return f"{self.split}/{self.array}/c/{self.index}"


@dataclass(frozen=True)
class StorePlan:
    """All that decides the arrays of a store."""

    dtype: str
    """Dtype of the tokens."""
    chunk: int
    """Values per inner chunk, the unit of reading."""
    shard: int
    """Values per shard (one file)."""
    holdout: Holdout
    """Which documents are held out."""
    splits: dict[SplitName, SplitInfo]
    """Their sizes."""
    slices: dict[str, tuple[PlacedSlice, ...]]
    """The slices in each array, by split/array, in order."""

    @property
    def name(self) -> str:
        """A hexadecimal hash, equal for equal stores."""
        splits = {name: split.model_dump() for name, split in self.splits.items()}
        text = json.dumps([asdict(self) | {"splits": splits}], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def length(self, split: SplitName, array: str) -> int:
        """Values of an array."""
        info = self.splits[split]
        return info.tokens if array == "tokens" else info.documents

    def shard_values(self, split: SplitName, array: str) -> int:
        """Values per shard: not more than a small array needs."""
        chunks_needed = max(1, -(-self.length(split, array) // self.chunk))
        return min(self.shard, chunks_needed * self.chunk)

    def jobs(self) -> list[ShardJob]:
        """Every shard of every array, each with its slices."""
        return [job for split in SPLITS for array in ARRAYS for job in self._jobs(split, array)]

    def _jobs(self, split: SplitName, array: str) -> list[ShardJob]:
        length, size = self.length(split, array), self.shard_values(split, array)
        slices = self.slices[f"{split}/{array}"]
        firsts = [placed.first for placed in slices]
        jobs = []
        for index, begin in enumerate(range(0, length, size)):
            end = min(begin + size, length)
            low = int(np.searchsorted(firsts, begin, "right")) - 1
            high = int(np.searchsorted(firsts, end, "left"))
            jobs.append(ShardJob(split, array, index, begin, end, slices[low:high]))
        return jobs


def plan_store(
    tables: Mapping[str, np.ndarray],
    order: Sequence[str],
    holdout: Holdout,
    *,
    dtype: str,
    chunk: int,
    shard: int,
) -> StorePlan:
    """Give every document its place in the store.

    Args:
        tables: the table of documents of each tokenized slice, by the slice's name.
        order: names of the slices in the order of the text; a file named twice is there twice.
        holdout: which documents are held out.
        dtype: dtype of the tokens.
        chunk: values per inner chunk.
        shard: values per shard.
    """
    splits, slices = {}, {}
    for split in SPLITS:
        sizes = {name: _sizes(table, holdout.mask(table, split)) for name, table in tables.items()}
        tokens, starts = [], []
        total = SplitInfo(documents=0, tokens=0, text_bytes=0)
        for name in order:
            size = sizes[name]
            tokens.append(PlacedSlice(name, total.tokens, size.tokens, total.tokens))
            starts.append(PlacedSlice(name, total.documents, size.documents, total.tokens))
            total = SplitInfo(
                documents=total.documents + size.documents,
                tokens=total.tokens + size.tokens,
                text_bytes=total.text_bytes + size.text_bytes,
            )
        splits[split] = total
        for array, found in (("tokens", tokens), ("document_starts", starts)):
            slices[f"{split}/{array}"] = tuple(placed for placed in found if placed.count)
    return StorePlan(dtype, chunk, shard, holdout, splits, slices)


def _sizes(table: np.ndarray, mask: np.ndarray) -> SplitInfo:
    return SplitInfo(
        documents=int(mask.sum()),
        tokens=int(table[mask, LENGTH].sum()),
        text_bytes=int(table[mask, TEXT_BYTES].sum()),
    )
