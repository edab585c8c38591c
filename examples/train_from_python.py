"""Train a small TTT model from Python: sweeps over chunks, an optimizer of your own, no launcher.

    python examples/train_from_python.py

The sequence is cut into chunks; memory holds the activations of one of them. Gradients are those of the whole
sequence. `tttscale train` does the same, over many ranks, with DeepSpeed's optimizer and checkpoints.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tttscale.data import TokenChunk
from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps

SHAPE: dict[str, Any] = dict(vocab_size=256, hidden_size=64, num_attention_heads=2)
SHAPE |= dict(intermediate_size=128, num_hidden_layers=2, initializer_range=0.06)
LENGTH_TOKENS, CHUNK_TOKENS, STEPS = 2048, 256, 6
TEXT = np.frombuffer(Path(__file__).read_bytes() * 4, dtype=np.uint8).astype(np.int64)


class Text:
    """A sequence of bytes whose labels are the bytes that follow."""

    def chunk(self, begin: int, end: int) -> TokenChunk:
        """The tokens from `begin` to `end`; a token store reads them from disk here."""
        return TokenChunk(TEXT[begin:end], TEXT[begin + 1 : end + 1])


model = TTTForCausalLM(TTTConfig(**SHAPE), seed=0)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
sweeps = Sweeps(model, Layout("striped", LENGTH_TOKENS, CHUNK_TOKENS))
for step in range(1, STEPS + 1):
    sweeps.forward([[Text()]])
    losses = sweeps.backward()  # gradients of the summed loss, in .grad
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad /= LENGTH_TOKENS
    optimizer.step()
    optimizer.zero_grad()
    print(f"step {step}: {losses.sums.sum().item() / LENGTH_TOKENS:.4f} nats per byte")
