"""Train a small TTT model from Python: sweeps over chunks, an optimizer of your own, no launcher.

    python examples/train_from_python.py

The sequence is cut into chunks; memory holds the activations of one of them. Gradients are those of the whole
sequence. `tttscale train` does the same, over many ranks, with DeepSpeed's optimizer and checkpoints.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from tttscale.model import TTTConfig, TTTForCausalLM
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps

LENGTH_TOKENS, CHUNK_TOKENS, STEPS = 2048, 256, 6
SHAPE: dict[str, Any] = dict(vocab_size=256, hidden_size=64, num_attention_heads=2)
SHAPE |= dict(intermediate_size=128, num_hidden_layers=2, initializer_range=0.06)


@dataclass
class Text:
    """A sequence of bytes whose labels are the bytes that follow."""

    ids: np.ndarray
    labels: np.ndarray
    starts: tuple[int, ...] = ()  # documents that begin inside
    padded: np.ndarray | None = None

    def chunk(self, begin: int, end: int) -> Self:
        """The tokens from `begin` to `end`; a token store reads them from disk here."""
        return type(self)(self.ids[begin:end], self.labels[begin:end])


def main() -> None:
    """Print a falling loss."""
    stream = np.frombuffer(Path(__file__).read_bytes() * 4, dtype=np.uint8).astype(np.int64)
    text = Text(stream[:LENGTH_TOKENS], stream[1 : LENGTH_TOKENS + 1])
    config = TTTConfig(**SHAPE)
    model = TTTForCausalLM(config, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    sweeps = Sweeps(model, Layout("striped", LENGTH_TOKENS, CHUNK_TOKENS))
    for step in range(1, STEPS + 1):
        sweeps.forward([[text]])
        losses = sweeps.backward()  # gradients of the summed loss, in .grad
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad /= LENGTH_TOKENS
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: {losses.sums.sum().item() / LENGTH_TOKENS:.4f} nats per byte")


if __name__ == "__main__":
    main()
