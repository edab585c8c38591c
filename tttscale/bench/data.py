"""`tttscale bench data`: reading tokens from a store, beside other ways to read the same tokens."""

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tttscale.bench import report
from tttscale.bench.data_paced import paced
from tttscale.bench.data_peers import TokenReader, memmap_reader, own_readers, peer_readers
from tttscale.bench.data_tables import CONSUMED_TOKENS_PER_SECOND, note, tables
from tttscale.data import Split, Store, Windows, open_store
from tttscale.errors import ConfigError, DataError
from tttscale.scan.layout import Layout

_MOST_TOKENS = 1 << 25
_PACED_WINDOWS, _PACED_RUNS = 1, 3

Ranges = list[tuple[int, int]]


@dataclass(frozen=True)
class Plan:
    """The windows to read: 0 .. `windows` of the split, other ones in every round."""

    sequence_tokens: int
    chunk_tokens: int
    ranks: tuple[int, ...]
    windows: int

    @classmethod
    def of(
        cls, split: Split, sequence_tokens: int, chunk_tokens: int, ranks: Sequence[int]
    ) -> "Plan":
        """Plan for as many windows as the split has, up to 32Mi tokens.

        Raises:
            ConfigError: There is not one, or the chunk is longer than it.
        """
        windows = (split.num_tokens - 1) // sequence_tokens
        if windows < 1:
            raise ConfigError(
                f"--sequence {sequence_tokens}: split {split.name} has {split.num_tokens} tokens; "
                f"give at most {split.num_tokens - 1}, or a store of more text"
            )
        if chunk_tokens > sequence_tokens:
            raise ConfigError(
                f"--chunk {chunk_tokens} is more than --sequence {sequence_tokens}; give less"
            )
        most = max(1, _MOST_TOKENS // sequence_tokens)
        return cls(sequence_tokens, chunk_tokens, tuple(ranks), min(windows, most))

    @property
    def tokens(self) -> int:
        """No token from here on is ever read."""
        return self.windows * self.sequence_tokens

    def cases(self, round_: int) -> dict[str, Ranges]:
        """List for each case the ranges of tokens to read one after the other."""
        size, chunk = self.sequence_tokens, self.chunk_tokens
        chooser = np.random.default_rng(round_)
        anywhere = int(chooser.integers(self.tokens - size + 1))
        starts = chooser.integers(self.tokens // chunk, size=size // chunk) * chunk
        cases = {
            "a window, one read": [(anywhere, anywhere + size)],
            "chunks, at random": [(int(at), int(at) + chunk) for at in starts],
        }
        offset = round_ % self.windows * size
        for ranks in self.ranks:
            layout = Layout("striped", size, chunk, ranks)
            own = [layout.bounds(c) for _, c in layout.own(0)]
            cases[f"a window, rank 0 of {ranks}"] = [(offset + a, offset + b) for a, b in own]
        return cases


def bench_data(
    out: Path,
    location: str,
    split_name: str,
    sequence_tokens: int,
    chunk_tokens: int,
    ranks: Sequence[int],
    repeats: int,
    peers: bool,
) -> str:
    """Time every reader on every case, taking turns; write OUT.md and OUT.json.

    Args:
        out: report path without suffix.
        location: the token store.
        split_name: its split.
        sequence_tokens: tokens per window.
        chunk_tokens: tokens per chunk.
        ranks: numbers of sequence ranks.
        repeats: rounds, after one untimed; the median counts.
        peers: try other trainers' formats too.

    Returns:
        The tables.

    Raises:
        ConfigError: The split is shorter than a window.
        DataError: The store cannot be read, or two readers gave different tokens.
    """
    store = open_store(location)
    split = store.split(split_name)
    plan = Plan.of(split, sequence_tokens, chunk_tokens, ranks)
    with tempfile.TemporaryDirectory(prefix="tttscale-bench-") as folder:
        memmap, raw = memmap_reader(split, plan.tokens, Path(folder))
        readers, missing = [*own_readers(store, split, sequence_tokens), memmap], {}
        if peers:
            found, missing = peer_readers(raw, chunk_tokens, Path(folder))
            readers += found
        measured = _measure(plan, readers, repeats)
    consumers = [_paced(store, plan, split_name, spin) for spin in (False, True) * _PACED_RUNS]
    data = {
        "plan": dataclasses.asdict(plan),
        "cases": measured,
        "missing": missing,
        "simulated": consumers,
        "bytes_per_token": {reader.name: reader.bytes_per_token for reader in readers},
    }
    sections = tables(data)
    what = note(store, split, chunk_tokens, plan.tokens, repeats, peers)
    report.write(out, "Reading tokens", [*sections, ("What was measured", what)], data)
    return "\n\n".join(text for _, text in sections)


def _paced(store: Store, plan: Plan, split_name: str, spin: bool) -> dict[str, Any]:
    """Read from a split just opened, so that no decoded chunk helps."""
    windows = Windows(store.split(split_name), plan.sequence_tokens, 0, mini_batch_tokens=16)
    count = min(_PACED_WINDOWS, windows.count)
    return paced(windows, plan.chunk_tokens, CONSUMED_TOKENS_PER_SECOND, count, spin)


def _measure(plan: Plan, readers: list[TokenReader], repeats: int) -> list[dict[str, Any]]:
    seconds: dict[tuple[str, str], list[float]] = {}
    for round_ in range(repeats + 1):
        turn = round_ % len(readers)
        for case, ranges in plan.cases(round_).items():
            expected = None
            for reader in readers[turn:] + readers[:turn]:
                reader.forget()
                began = time.perf_counter()
                parts = [reader.read(begin, end) for begin, end in ranges]
                taken = time.perf_counter() - began
                got = np.concatenate(parts)
                expected = got if expected is None else expected
                if not np.array_equal(got, expected):
                    raise DataError(f"{reader.name} gave other tokens than the rest: {case}")
                if round_:  # the first brings files into the page cache
                    seconds.setdefault((case, reader.name), []).append(taken)
    counts = {case: (len(r), sum(b - a for a, b in r)) for case, r in plan.cases(0).items()}
    return [
        {
            "case": case,
            "reader": reader.name,
            "reads": reads,
            "tokens": tokens,
            "median_seconds": statistics.median(seconds[case, reader.name]),
            "seconds": seconds[case, reader.name],
        }
        for case, (reads, tokens) in counts.items()
        for reader in readers
    ]
