"""The two verbs of a layer's forward, in plain autograd, and how its initial values are checked."""

import pytest
import torch
from torch import nn

from tests.scan.helpers import tiny_config
from tttscale.errors import MixerError
from tttscale.model import Mixer
from tttscale.model.ports import NullPort
from tttscale.model.sequence_layer import build_mixer, recv_state, reset, send_state


class Between(NullPort):
    """Both neighbours, and the order in which things pass."""

    def __init__(self, state=None, grad=None):
        self.state, self.grad, self.log = state, grad, []

    def recv_state(self):
        self.log.append("recv_state")
        return self.state

    def send_state(self, part):
        self.log.append(("send_state", [t.tolist() for t in part]))

    def recv_grad(self):
        self.log.append("recv_grad")
        return self.grad

    def send_grad(self, grad):
        self.log.append(("send_grad", [t.tolist() for t in grad]))


def forward(port, x):
    (x,), past = recv_state(port, x)
    state = x.sum() if past is None else x.sum() + 2 * past[0]
    return send_state(port, 3 * x, (state.view(1),))


def test_a_backward_receives_before_it_sends():
    port = Between((torch.tensor([10.0]),), (torch.tensor([7.0]),))
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    forward(port, x).sum().backward()
    assert port.log == [
        "recv_state",
        ("send_state", [[23.0]]),
        "recv_grad",
        ("send_grad", [[14.0]]),  # 2 * 7
    ]
    assert x.grad is not None
    assert x.grad.tolist() == [10.0, 10.0]  # 3 of the output, 7 by way of the state


def test_at_the_ends_of_a_sequence_nothing_is_sent_to_the_left():
    port = Between()
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    forward(port, x).sum().backward()
    assert port.log == ["recv_state", ("send_state", [[3.0]]), "recv_grad"]
    assert x.grad is not None
    assert x.grad.tolist() == [3.0, 3.0]


def test_a_part_that_nothing_uses_is_still_answered_with_zeros():
    port = Between((torch.tensor([10.0]),))
    x = torch.ones(2, requires_grad=True)
    (y,), _ = recv_state(port, x)
    y.sum().backward()
    assert port.log == ["recv_state", ("send_grad", [[0.0]])]


def test_without_a_graph_only_states_pass():
    port = Between((torch.tensor([10.0]),))
    with torch.no_grad():
        out = forward(port, torch.ones(2))
    assert not out.requires_grad
    assert port.log == ["recv_state", ("send_state", [[22.0]])]


class Small(Mixer):
    """Fills what it is told to."""

    def __init__(self, filled=True, frozen=False):
        super().__init__(tiny_config(), None)
        self.weight = nn.Parameter(torch.empty(3), requires_grad=not frozen)
        self.counts = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
        self.filled = filled

    def reset(self, generator, init):
        if self.filled is None:
            raise ArithmeticError("no idea")
        self.weight.data[: 3 if self.filled else 2] = 1.0


def test_a_parameter_that_is_left_alone_in_part_is_named():
    layer = Small(filled=False)
    layer.counts = None
    said = r"Small: reset\(\) gives the parameter weight no value; fill it there"
    with torch.no_grad(), pytest.raises(MixerError, match=said):
        reset(layer, torch.Generator(), "torch")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"filled": None}, r"Small: reset\(\) failed: ArithmeticError: no idea \(.*line \d+\)"),
        ({"frozen": True}, "the parameter weight takes no gradient.*make it a buffer"),
        ({}, "the parameter counts takes no gradient"),
    ],
)
def test_what_reset_gets_wrong(options, said):
    with torch.no_grad(), pytest.raises(MixerError, match=said):
        reset(Small(**options), torch.Generator(), "torch")


def test_a_layer_that_is_not_there_or_not_given_its_options():
    with pytest.raises(MixerError, match=r"^model.pattern: 'mamba': is none of ttt-linear"):
        build_mixer("mamba", tiny_config())
    wrong = tiny_config(options={"ttt-mlp": {"base_lr": 0}})
    with pytest.raises(MixerError, match=r"'ttt-mlp': model.options.ttt-mlp.base_lr = 0"):
        build_mixer("ttt-mlp", wrong)


@pytest.mark.parametrize("call", [lambda m: m.carry(1, 1), lambda m: m.reset(None, "torch")])
def test_the_base_class_declares_nothing(call):
    with pytest.raises(NotImplementedError):
        call(Mixer(tiny_config(), None))
