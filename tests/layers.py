"""A small TTT layer for tests."""

import torch

from tttscale.model import TTTConfig
from tttscale.model.sequence_layer import build_mixer, reset
from tttscale.model.ttt_layer import TTTLayer


def small_layer(kind: str) -> TTTLayer:
    """Two heads of 16, K = 16, convolutions and gate; fp64, from a fixed seed."""
    config = TTTConfig(
        vocab_size=50, hidden_size=32, num_attention_heads=2, num_hidden_layers=1,
        intermediate_size=32, ttt_layer_type=kind, share_qk=True, use_gate=True,
    )  # fmt: skip
    layer = build_mixer(f"ttt-{kind}", config).double()
    assert isinstance(layer, TTTLayer)
    with torch.no_grad():
        reset(layer, torch.Generator().manual_seed(0), "torch")
    return layer
