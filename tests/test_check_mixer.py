"""What `check_mixer` finds: layers that keep their word, and every way of not keeping it."""

import pytest
import torch

from tests.mixers.gated_delta import GatedDelta
from tests.scan.helpers import (
    tiny_config,
)
from tttscale.errors import MixerError
from tttscale.model import (
    Carried,
    Mixer,
    check_mixer,
    recv_state,
    send_state,
)
from tttscale.model.ttt_layer import TTTMLP, TTTLinear


@pytest.mark.parametrize("layer", [TTTLinear, TTTMLP, GatedDelta])
def test_these_keep_their_word(layer):
    report = check_mixer(layer)
    assert report.steps > 25
    assert report.gradient_error < 1e-12


def test_the_mamba_backbone_does_too():
    report = check_mixer(TTTLinear, config=tiny_config(vocab_size=29))
    assert list(report.parts) == ["pre_conv", "qk_conv", "state"]


class Broken(GatedDelta):
    """Misbehaves as told."""

    class Options(GatedDelta.Options):
        """What to get wrong."""

        way: str = ""

    def carry(self, batch, tokens):
        declared = super().carry(batch, tokens)
        if self.options.way == "more":
            return {"tail": Carried(((batch, 3),)), **declared}
        if self.options.way == "names depend on tokens":
            return declared if not 20 < tokens < 1000 else {"other": declared["memory"]}
        if self.options.way == "bf16":
            return {"memory": declared["memory"]._replace(dtype=torch.bfloat16)}
        return declared

    def reset(self, generator, init):
        for name, parameter in self.named_parameters():
            if self.options.way != "no values" or name != "gates.weight":
                parameter.normal_(0, 0.3, generator=generator)

    def forward(self, h, chunk, ports):
        way = self.options.way
        if way == "undeclared":
            ports["stat"]
        if way == "twice":
            recv_state(ports["memory"], h)
        if way == "no row":
            return self._one_row(h, ports)
        if way == "unsent":
            (h,), _ = recv_state(ports["memory"], h)
            return self.out(h)
        if way == "sees its rank":
            y = super().forward(h, chunk, ports)
            return y * (1 + 1e-6 * ports["memory"].peer_waits_for_state)
        if way == "documents":
            chunk = type(chunk)()
        return super().forward(h, chunk, ports)

    def _one_row(self, h, ports):
        (h,), _ = recv_state(ports["memory"], h)
        shape = self.carry(1, 1)["memory"].shapes[0]  # [1, ...], and h has two rows
        return self.out(send_state(ports["memory"], h, (h.new_zeros(shape) + h.sum(),)))


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("undeclared", r"layer 0 \(.*Broken\), chunk 0: forward uses part 'stat', .* \['memory'\]"),
        ("twice", r"recv_state of part 'memory' after \['memory'\]; the order is .* each once"),
        ("unsent", "send_state of part 'memory', which carry\\(\\) declares, never came"),
        ("more", "recv_state of part 'memory' first; the order is \\['tail', 'memory'\\]"),
        (
            "no row",
            r"send_state of part 'memory' with \['\(1, 2, 12, 12\) .*64'\], .* \['\(2, 2, 12, 12\)",
        ),
        ("bf16", r"with \['.* torch.float64'\], carry\(\) declares \['.* torch.bfloat16'\]"),
        ("names depend on tokens", "only shapes may depend on the tokens seen"),
        ("no values", "Broken: reset\\(\\) gives the parameter gates.weight no value"),
        ("sees its rank", "losses depend on how the sequence is split: striped, 2 rank"),
        (
            "documents",
            "In rows where a document starts the layer must begin from its initial carry",
        ),
    ],
)
def test_a_broken_word_is_an_error_that_names_layer_and_part(way, said):
    with pytest.raises(MixerError, match=said):
        check_mixer(Broken, options={"way": way})


class Forgetful(Mixer):
    """Never uses what it receives: the chunk before must get a gradient of zeros all the same."""

    def __init__(self, config, options):
        super().__init__(config, options)
        self.weight = torch.nn.Parameter(torch.empty(config.hidden_size))

    def carry(self, batch, tokens):
        return {"sum": Carried(((batch, self.config.hidden_size),))}

    def reset(self, generator, init):
        self.weight.normal_(generator=generator)

    def forward(self, h, chunk, ports):
        (h,), _ = recv_state(ports["sum"], h)
        return send_state(ports["sum"], h * self.weight, (h.sum(1),))


def test_a_carry_that_is_not_used_still_has_a_gradient():
    assert check_mixer(Forgetful).gradient_error < 1e-12


class Faulty(GatedDelta):
    """Raises, or answers what nobody can use, as told."""

    class Options(GatedDelta.Options):
        """Where."""

        way: str = ""

    def __init__(self, config, options):
        super().__init__(config, options)
        if options.way == "init":
            torch.nn.Linear("a", 3)
        self.gates.requires_grad_(options.way != "frozen")

    def carry(self, batch, tokens):
        if self.options.way == "carry":
            raise KeyError("no such thing")
        if self.options.way == "flat":
            return {"memory": Carried((batch, 3))}
        return None if self.options.way == "no parts" else super().carry(batch, tokens)

    def reset(self, generator, init):
        super().reset(generator, init)
        if self.options.way == "reset":
            raise RuntimeError("this is not ready")

    def forward(self, h, chunk, ports):
        out = super().forward(h, chunk, ports)
        return {"none": None, "broadcast": out[:, :1]}.get(self.options.way, out)


@pytest.mark.parametrize(
    ("way", "said"),
    [
        (
            "init",
            r"pattern: .*Faulty' cannot be made: TypeError: .*/test_check_mixer.py, line \d+\)",
        ),
        (
            "carry",
            r"carry\(2, \d+\) failed: KeyError: 'no such thing' \(\S+test_check_mixer.py, line",
        ),
        ("flat", r"declares 'memory' as Carried\(shapes=\(2, 3\).*; expected .*\(\(2, 8, 64\),\)"),
        ("no parts", "carry.* gives None; expected a dict of parts"),
        (
            "reset",
            r"Faulty: reset\(\) failed: RuntimeError: this is not ready \(.*test_check_mixer.py",
        ),
        ("frozen", "Faulty: the parameter gates.weight takes no gradient, .* make it a buffer"),
        ("none", r"Faulty: forward returns None; expected a tensor \[2, \d+, 24\]"),
        ("broadcast", r"forward returns \[2, 1, 24\]; expected a tensor \[2, \d+, 24\]"),
    ],
)
def test_faults_of_a_layer_are_shown_with_its_own_line(way, said):
    with pytest.raises(MixerError, match=said):
        check_mixer(Faulty, options={"way": way})


def test_a_part_is_not_called_as_the_convolution_in_front():
    class Clash(GatedDelta):
        def carry(self, batch, tokens):
            return {"pre_conv": super().carry(batch, tokens)["memory"]}

    with pytest.raises(MixerError, match=r"expected a dict of parts, none called \['pre_conv'\]"):
        check_mixer(Clash, config=tiny_config(vocab_size=29))
