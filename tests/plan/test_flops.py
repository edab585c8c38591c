"""FLOPs: the closed forms against torch's own counter, on real models and whole steps."""

import pytest
import torch
from torch import nn

from tests.scan.helpers import random_tokens, tiny_config
from tttscale.model import Carried, Mixer, TTTForCausalLM, mixer, recv_state, send_state
from tttscale.model.chunk import WHOLE
from tttscale.model.ports import NULL_PORTS
from tttscale.model.registry import mixer_class
from tttscale.plan.flops import Flops, ModelFlops, mixer_flops, new_counter, sweep_flops
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps

CONFIGS = {
    "linear": tiny_config("linear"),
    "mlp": tiny_config("mlp"),
    "linear, transformer": tiny_config("linear", "transformer", layers=1),
    "mlp, transformer": tiny_config("mlp", "transformer", layers=3),
    "wider, untied": tiny_config(
        "linear", hidden_size=24, num_attention_heads=3, tie_word_embeddings=False, vocab_size=31
    ),
    "K of 16": tiny_config("mlp", mini_batch_size=16, hidden_size=16),
    "gate alone": tiny_config("linear", use_gate=True, share_qk=False, pre_conv=False),
    "pattern": tiny_config("mlp", layers=3, pattern=("ttt-linear", "ttt-mlp")),
}


class Windowed(Mixer):
    """A layer of someone's own, quadratic inside a chunk."""

    def __init__(self, config, options):
        super().__init__(config, options)
        self.inner = nn.Linear(config.hidden_size, 5, bias=False)
        self.outer = nn.Linear(5, config.hidden_size, bias=False)

    @classmethod
    def alignment(cls, config, options):
        return 3

    def carry(self, batch, tokens):
        return {"last": Carried(((batch, 5),))}

    def reset(self, generator, init):
        for parameter in self.parameters():
            parameter.normal_(0, 0.3, generator=generator)

    def forward(self, h, chunk, ports):
        (x,), past = recv_state(ports["last"], self.inner(h))
        x = (x @ x.transpose(1, 2)).tril() @ x
        if past is not None:
            x = x + past[0].unsqueeze(1)
        return self.outer(send_state(ports["last"], x, (x[:, -1].float(),)))


class Undecided(Windowed):
    """One that looks at its numbers."""

    def forward(self, h, chunk, ports):
        return super().forward(h, chunk, ports) if h.sum().item() > 0 else h


mixer("windowed")(Windowed)
mixer("undecided")(Undecided)


def counted(function):
    counter = new_counter()
    with counter:
        out = function()
    return counter.get_total_flops(), out


@pytest.mark.parametrize("tokens", [16, 64, 150, 271])
@pytest.mark.parametrize("name", CONFIGS)
def test_forward_and_backward_of_a_model(name, tokens):
    config = CONFIGS[name]
    model = TTTForCausalLM(config)
    ids = torch.randint(0, config.vocab_size, (1, tokens))

    def blocks():
        x = model.embed(ids)
        for block in model.blocks:
            x = block(x)
        return x

    expected = ModelFlops.of_chunk(config, tokens)
    forward, x = counted(blocks)
    assert forward == expected.forward_of(range(config.num_hidden_layers))
    head, (total, _) = counted(lambda: model.head(x, ids))  # its gradients are formed at once
    assert head == expected.head.forward + expected.head.backward
    backward, _ = counted(total.backward)
    assert backward == sum(block.backward for block in expected.blocks) + expected.again
    assert not expected.unknown


def test_a_backward_is_twice_a_forward_but_for_the_biases():
    """Gradients at both factors of each product; the column of ones beside the hidden layer needs none."""
    linear = ModelFlops.of_chunk(CONFIGS["linear"], 64).blocks[0]
    assert linear.backward == 2 * linear.forward
    mlp = ModelFlops.of_chunk(CONFIGS["mlp"], 64).blocks[0]
    assert 1.9 < mlp.backward / mlp.forward < 2


@pytest.mark.parametrize("kept", [0, 1, 1.5, 3])
@pytest.mark.parametrize("layout", ["striped", "contiguous"])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_whole_step_with_recomputation(kind, layout, kept):
    config, cut = tiny_config(kind), Layout(layout, 150, 32, sequences=2)
    sweeps = Sweeps(TTTForCausalLM(config), cut, keep=ActivationPolicy(kept))
    groups = [[random_tokens(150, seed)] for seed in range(2)]
    found, _ = counted(lambda: (sweeps.forward(groups), sweeps.backward()))
    expected = sweep_flops(config, cut, kept)
    assert found == expected.hardware
    assert expected.model < expected.hardware


def test_a_layer_of_ones_own_is_counted_without_numbers():
    config = tiny_config(pattern=("windowed",), hidden_size=8)
    layer = mixer_class("windowed")(config, Windowed.Options())
    for tokens in (3, 33, 300):
        h = torch.randn(1, tokens, 8, requires_grad=True)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.normal_()
        forward, y = counted(lambda h=h: layer(h, WHOLE, NULL_PORTS))
        backward, _ = counted(lambda y=y: y.sum().backward())
        assert mixer_flops(config, "windowed", tokens) == Flops(forward, backward)


def test_a_layer_that_looks_at_its_numbers_is_unknown():
    config = tiny_config(pattern=("undecided", "ttt-linear"))
    found = ModelFlops.of_chunk(config, 32)
    assert len(found.unknown) == 1
    assert found.unknown[0].startswith("undecided: cannot be counted")
    whole = ModelFlops.of_chunk(tiny_config(pattern=("ttt-linear",)), 32)
    assert 0 < found.model < whole.model


def test_figures_of_the_paper_sizes():
    """6 N D and the scan: hand-counted for 1.3B TTT-Linear."""
    from tttscale.model.architecture import TTTConfig, preset_fields

    config = TTTConfig(**preset_fields("ttt-linear-1.3b"))
    found = sweep_flops(config, Layout("striped", 2**20, 8192, 8))
    D, inner_width, L, V, H, f, K = 2048, 5504, 24, 32000, 32, 64, 16
    dense = L * (4 * D * D + D * H + 3 * D * inner_width) + D * V
    inner = H * (3 * 2 * (f + 1) * f + 2 * K * (f + 1) + 2 * K * f)
    assert found.model_per_token == 3 * (2 * dense + L * inner)
    assert 7.4e9 < found.model_per_token < 8.2e9
