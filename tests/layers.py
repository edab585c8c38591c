"""A small TTT layer for tests."""

from tttscale.model import TTTConfig
from tttscale.model.initialise import initialise
from tttscale.model.ttt_layer import TTTLayer


def small_layer(kind: str) -> TTTLayer:
    """Two heads of 16, K = 16, convolutions and gate; fp64, from a fixed seed."""
    config = TTTConfig(
        vocab_size=50, hidden_size=32, num_attention_heads=2, num_hidden_layers=1,
        intermediate_size=32, ttt_layer_type=kind, share_qk=True, use_gate=True,
    )  # fmt: skip
    layer = TTTLayer(config).double()
    initialise(layer, config, "torch", seed=0)
    return layer
