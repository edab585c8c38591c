"""A simulated consumer that takes chunks at a fixed rate from the sweeps' own read-ahead thread."""

import time
from typing import Any

import torch

from tttscale.data import Windows
from tttscale.scan.layout import Layout
from tttscale.scan.reader import Reader


def paced(
    windows: Windows, chunk_tokens: int, rate: float, count: int, spin: bool
) -> dict[str, Any]:
    """Take the chunks of `count` windows; between two of them, idle as long as compute would take.

    Args:
        windows: Where the sequences come from, in the order of a run.
        chunk_tokens: Tokens per chunk.
        rate: Tokens per second that the simulated compute takes.
        count: Windows.
        spin: Keep Python's lock while idling, instead of sleeping.

    Returns:
        Tokens; seconds in all, and of the same idling with nothing to read, measured before; how
        long chunks were waited for: the first one, which nothing hides, is part of it and also
        given alone.
    """
    layout = Layout("striped", windows.sequence_tokens, chunk_tokens)
    groups = [[windows.sequence(index)] for index in range(count)]
    ranges = [(m, *layout.bounds(c)) for m in range(count) for c in range(layout.chunks)]
    began = time.perf_counter()
    for _, begin, end in ranges:
        _idle((end - begin) / rate, spin)
    alone = time.perf_counter() - began
    reader = Reader(torch.device("cpu"))
    tokens, waits = 0, []
    began = asked = time.perf_counter()
    for batch in reader.read(groups, ranges):
        waits.append(time.perf_counter() - asked)
        taken = batch.ids.numel()
        _idle(taken / rate, spin)
        tokens += taken
        asked = time.perf_counter()
    return {
        "consumer": "spins" if spin else "sleeps",
        "tokens": tokens,
        "seconds": time.perf_counter() - began,
        "alone_seconds": alone,
        "wait_seconds": sum(waits),
        "first_wait_seconds": waits[0],
    }


def _idle(seconds: float, spin: bool) -> None:
    if not spin:
        time.sleep(seconds)
        return
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
