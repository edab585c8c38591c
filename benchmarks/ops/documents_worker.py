"""A TTT layer over a chunk of packed documents, scanned side by side or one after the other; JSON lines.

Run as `python -m benchmarks.ops.documents_worker DEVICE TOKENS HEADS ...`. bf16 on a GPU, fp32 and one thread
on a CPU. How the documents are stacked is worked out once, as for all layers of a model.
"""

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.problems import milliseconds
from tttscale.bench import report
from tttscale.bench.layer_worker import HEAD_DIM, our_layer
from tttscale.model import packing
from tttscale.model.chunk import Chunk
from tttscale.model.ports import NullPort, Part

MEANS_TOKENS = (0, 2000, 700, 200)
"""Mean lengths of documents; 0 for none."""


def starts(tokens: int, mean_tokens: int, size: int) -> tuple[int, ...]:
    """Draw where documents of log-normal lengths (sigma 1) begin, each at a mini-batch."""
    if not mean_tokens:
        return ()
    lengths = np.random.default_rng(0).lognormal(np.log(mean_tokens) - 0.5, 1.0, tokens // size)
    ends = np.cumsum(np.maximum(lengths // size, 1).astype(int) * size)
    return tuple(int(end) for end in ends if end < tokens)


class Middle(NullPort):
    """A chunk in the middle of a sequence: a state comes in, a gradient comes back."""

    def __init__(self, state: Part) -> None:
        self._state = state

    def recv_state(self) -> Part:
        """A state."""
        return self._state

    def recv_grad(self) -> Part:
        """A gradient of its size."""
        return self._state


@contextmanager
def limited(device: str, limits: packing.Limits) -> Iterator[None]:
    """Stacks are made within other limits."""
    usual = packing.LIMITS[device]
    packing.LIMITS[device] = limits
    try:
        yield
    finally:
        packing.LIMITS[device] = usual


def measure(kind: str, heads: int, tokens: int, device: str) -> Iterator[dict[str, Any]]:
    """Time both ways for every mean length: forward + backward of a whole layer."""
    layer = our_layer(kind, heads).to(device)
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(1, tokens, heads * HEAD_DIM, generator=generator, device=device)
    x.requires_grad_()

    state = tuple(w.detach() for w in layer._initial_state())
    ports = defaultdict(NullPort, state=Middle(state))
    usual = packing.LIMITS[device]
    ways = {"one_by_one": replace(usual, rows=1), "together": usual}

    def call(chunk: Chunk) -> Callable[[], None]:
        """Forward and backward over a chunk."""

        def both() -> None:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                y = layer(x, chunk, ports)
            y.float().square().mean().backward()

        return both

    for mean_tokens in MEANS_TOKENS:
        begins = starts(tokens, mean_tokens, layer.config.mini_batch_size)
        row = {"inner": kind, "heads": heads, "tokens": tokens, "documents": len(begins) + 1}
        for way, limits in ways.items():
            with limited(device, limits):
                row[f"{way}_ms"] = milliseconds(call(Chunk((begins,))), device, repeats=5)
        chain_tokens = _chain_tokens(begins, tokens, layer.config.mini_batch_size)
        yield {**row, "chain_tokens": chain_tokens}


def _chain_tokens(begins: tuple[int, ...], tokens: int, size: int) -> int:
    """Count the tokens that a GPU would still scan one after the other: the longest segment of each scan."""
    segments = list(packing.cut((begins,), tokens))
    return sum(rows.length for rows in packing.pack(segments, size, 1, packing.LIMITS["cuda"]))


if __name__ == "__main__":
    words = sys.argv[1:]
    torch.set_num_threads(1)
    for inner in ("linear", "mlp"):
        for heads in words[2:]:
            for found in measure(inner, int(heads), int(words[1]), words[0]):
                report.emit(found)
