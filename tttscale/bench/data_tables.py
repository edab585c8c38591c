"""The tables and the words of `tttscale bench data`'s report."""

from typing import Any

from tttscale.bench import report
from tttscale.bench.data_peers import MEMMAP, OURS
from tttscale.data import Split, Store

CONSUMED_TOKENS_PER_SECOND = 400_000
"""Consumption that is assumed for a 1.3B run, all its ranks together."""
_READS_PER_STEP = 2  # forward sweep, and recomputation in the backward one


def tables(data: dict[str, Any]) -> list[tuple[str, str]]:
    """(title, table) of everything that was measured."""
    absolute = {c["case"]: c["median_seconds"] for c in data["cases"] if c["reader"] == MEMMAP}
    window = data["plan"]["sequence_tokens"]
    rows = [_row(case, absolute[case["case"]], window) for case in data["cases"]]
    empty = dict.fromkeys(rows[0], "")
    rows += [
        {**empty, "case": "all", "reader": name, "ms": reason}
        for name, reason in data["missing"].items()
    ]
    sizes = [
        {"reader": name, "bytes/token": f"{size:.2f}"}
        for name, size in data["bytes_per_token"].items()
    ]
    runs = sorted(data["simulated"], key=lambda run: run["consumer"])
    return [
        ("Result", report.table(rows)),
        ("Simulated consumer", report.table([_paced_row(c) for c in runs])),
        ("On disk", report.table(sizes)),
    ]


def note(
    store: Store, split: Split, chunk_tokens: int, tokens: int, repeats: int, peers: bool
) -> str:
    """Explain the figures."""
    rate = f"{CONSUMED_TOKENS_PER_SECOND:,}"
    text = (
        f"The first {tokens:,} of {split.num_tokens:,} tokens ({split.name}, tokenizer "
        f"{store.info.tokenizer.name}, {store.info.tokenizer.dtype}). **The page cache is "
        "warm**: all of them were read just before to write the other formats, and one round is not "
        "counted; a cold disk or an object store is not measured. "
        f"Readers take turns in one process; median of {repeats} rounds, each on other tokens, and "
        "every read of every round was compared: all readers gave identical tokens. "
        f"*chunks, at random*: single reads of {chunk_tokens:,} tokens that begin on multiples of "
        f"that. *rank 0 of R*: chunks c with c mod R = 0 of one window, {chunk_tokens:,} tokens a "
        "read. *to memmap*: time divided by that of copying the slice out of a raw file. "
        "zarr-python reads the store's files without our checks of indexes and ids; "
        "`Windows.chunk` reads one token more per chunk for the labels and widens to int64. "
        f"*share of a step*: {_READS_PER_STEP} such readings (forward sweep and recomputation) "
        f"in a step that takes a window at {rate} tokens/s, a rate assumed for a 1.3B run on all "
        "its ranks together, if nothing were read ahead. *Simulated consumer*: the sweeps' "
        f"read-ahead thread, one rank; between chunks the consumer does nothing for as long as "
        f"they would take at {rate} tokens/s, asleep (as a host that waits for its "
        "GPU) or spinning in Python (which always wants Python's lock: a bound for a step that the "
        "host holds up). No model runs; every run is shown, since they differ. *waits* includes the first "
        "chunk of all, which nothing hides; *longer in all by* compares with the same idling and "
        "nothing to read, so it also holds what the reader takes of processor and lock."
    )
    if not peers:
        return text + " Other trainers' formats were not measured (`--peers`)."
    return text + (
        " Peers read copies of the same tokens in their own formats, not compressed: MDS samples "
        "of one chunk each (a read at an odd place joins the samples it touches), Megatron's "
        "tokens as one document. Their own shuffling, caching and workers are not measured."
    )


def _row(case: dict[str, Any], memmap_seconds: float, window_tokens: int) -> dict[str, str]:
    seconds = case["median_seconds"]
    step = window_tokens / CONSUMED_TOKENS_PER_SECOND
    share = f"{100 * _READS_PER_STEP * seconds / step:.2f}%" if case["reader"] in OURS else ""
    return {
        "case": case["case"],
        "reads": str(case["reads"]),
        "reader": case["reader"],
        "ms": f"{1e3 * seconds:.2f}",
        "tokens/s": f"{case['tokens'] / seconds:,.0f}",
        "to memmap": f"{seconds / memmap_seconds:.1f}x",
        "share of a step": share,
    }


def _paced_row(result: dict[str, Any]) -> dict[str, str]:
    return {
        "consumer": f"simulated, {result['consumer']}",
        "tokens": f"{result['tokens']:,}",
        "s": f"{result['seconds']:.2f}",
        "s, without reading": f"{result['alone_seconds']:.2f}",
        "waits s": f"{result['wait_seconds']:.4f}",
        "of which the first": f"{result['first_wait_seconds']:.4f}",
        "data wait": f"{100 * result['wait_seconds'] / result['seconds']:.3f}%",
        "longer in all by": f"{100 * (result['seconds'] / result['alone_seconds'] - 1):.1f}%",
    }
