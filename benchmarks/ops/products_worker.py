"""Sweeps with torch's products and with oneDNN's, in turns in one process; also the cross-entropy by slices.

Run as `python -m benchmarks.ops.products_worker WIDTH ROUNDS`. Prints one JSON object.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tttscale.data import ArraySplit, Windows
from tttscale.kernels.ops import cpu_product
from tttscale.kernels.ops.cross_entropy import CrossEntropy
from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.scan.keep_policy import SavedBytes
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps
from tttscale.train.memory import tune_allocator

_MAMBA = {"share_qk": True, "use_gate": True, "pre_conv": True}
SHAPES: dict[str, tuple[int, int, dict[str, int]]] = {  # tokens, tokens of a chunk, model
    "quickstart": (8192, 2048, dict(vocab_size=259, hidden_size=128, intermediate_size=512,
                                    num_hidden_layers=4, num_attention_heads=2)),
    "wide": (4096, 2048, dict(vocab_size=32_000, hidden_size=768, intermediate_size=2048,
                              num_hidden_layers=2, num_attention_heads=12)),
}  # fmt: skip
SLICES = (256, 1024)
"""Tokens of the cross-entropy's slices."""


def main(width: str, rounds: int) -> dict[str, Any]:
    """CPU seconds of the fastest round of each, losses, and what a token's activations take."""
    torch.set_num_threads(1)
    tune_allocator()
    tokens, chunk, shape = SHAPES[width]
    config = TTTConfig.model_validate({**shape, **_MAMBA})
    model = TTTForCausalLM(config)
    sweeps = Sweeps(model, Layout("striped", tokens, chunk))
    text = np.random.default_rng(0).integers(0, config.vocab_size, tokens + 1, dtype=np.uint16)
    groups, losses = [[Windows(ArraySplit([text]), tokens, 0, 16).sequence(0)]], {}

    def step(way: str) -> None:
        cpu_product.use(way)
        model.zero_grad()
        sweeps.forward(groups)
        losses[way] = sweeps.backward().sums.sum().item() / tokens

    ways: dict[str, Callable[[], None]] = {
        way: lambda way=way: step(way) for way in cpu_product.WAYS
    }
    heads = {f"{way}, {n}": _head(model, chunk, way, n) for way in cpu_product.WAYS for n in SLICES}
    return {
        "width": width,
        "step_seconds": _fastest(ways, rounds),
        "head_seconds": _fastest(heads, rounds),
        "loss": losses,
        "saved_bytes_per_token": _saved(model, chunk),
    }


def _fastest(runs: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """CPU seconds, in turns; the first round warms up."""
    best = dict.fromkeys(runs, float("inf"))
    for number in range(rounds + 1):
        for name, run in runs.items():
            began = time.process_time()
            run()
            if number:
                best[name] = min(best[name], time.process_time() - began)
    return best


def _head(model: TTTForCausalLM, tokens: int, way: str, slice_tokens: int) -> Callable[[], None]:
    config = model.config
    x = torch.randn(tokens, config.hidden_size, requires_grad=True)
    labels = torch.randint(0, config.vocab_size, (tokens,))

    def run() -> None:
        cpu_product.use(way)
        CrossEntropy(slice_tokens)(x, model.lm_head.weight, labels)[0].backward()

    return run


def _saved(model: TTTForCausalLM, tokens: int) -> dict[str, float]:
    """Bytes that one block saves for the backward, by the dtype of products."""
    found = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            x = model.embed(torch.zeros(1, tokens, dtype=torch.int64))
            with SavedBytes([*model.parameters(), x]) as saved:
                model.blocks[0](x)
        found[name] = saved.total / tokens
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]))))
