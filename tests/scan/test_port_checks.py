"""A layer's calls are compared with what it declares: parts, order, shapes and dtypes."""

import pytest
import torch

from tests.scan.declared import layout
from tttscale.errors import MixerError
from tttscale.scan.port_checks import PortChecks

TAIL = torch.zeros(2, 3, dtype=torch.bfloat16)
STATE = torch.zeros(2, 8), torch.zeros(2, 1)
"""What the two parts are after two chunks of four tokens."""


@pytest.fixture
def checks():
    return PortChecks(layout(), layer=1, chunk=1)


def refused(call, *arguments):
    with pytest.raises(MixerError) as caught:
        call(*arguments)
    place, _, what = str(caught.value).partition(": ")
    assert place == "layer 1 (declaring), chunk 1"
    return what


def test_a_layer_that_keeps_its_word(checks):
    for part, tensors in (("tail", (TAIL,)), ("state", STATE)):
        checks.declared(part)
        checks.use("recv_state", part)
        checks.use("send_state", part)
        checks.tensors("send_state", part, 1, tensors)
    for part in ("state", "tail"):
        checks.use("recv_grad", part)
        checks.use("send_grad", part)
    checks.complete("recv_state", "send_state", "recv_grad", "send_grad")


def test_a_part_that_is_not_declared(checks):
    said = refused(checks.declared, "memory")
    assert said == "forward uses part 'memory', carry() declares ['tail', 'state']"


@pytest.mark.parametrize(
    ("verb", "first", "wrong", "order"),
    [
        ("recv_state", [], "state", "['tail', 'state']"),
        ("send_state", ["tail"], "tail", "['tail', 'state']"),
        ("recv_grad", [], "tail", "['state', 'tail']"),  # a backward meets them in reverse
        ("send_grad", ["state", "tail"], "state", "['state', 'tail']"),
    ],
)
def test_parts_out_of_order_or_twice(checks, verb, first, wrong, order):
    for part in first:
        checks.use(verb, part)
    when = f"after {first}" if first else "first"
    said = refused(checks.use, verb, wrong)
    assert said == f"{verb} of part {wrong!r} {when}; the order is {order}, each once"


@pytest.mark.parametrize(
    ("verb", "missing"), [("send_state", "state"), ("recv_grad", "tail"), ("send_grad", "tail")]
)
def test_a_part_that_never_came_is_named(checks, verb, missing):
    checks.use(verb, "tail" if verb == "send_state" else "state")
    said = refused(checks.complete, verb)
    assert said == f"{verb} of part {missing!r}, which carry() declares, never came"


@pytest.mark.parametrize(
    "tensors",
    [
        (STATE[0],),
        (STATE[0][:1], STATE[1]),  # copying would broadcast it
        (STATE[0].double(), STATE[1]),
        (*STATE, STATE[1]),
        (torch.zeros(2, 4), STATE[1]),  # of the boundary before
    ],
    ids=["one short", "one row", "fp64", "one more", "fewer tokens"],
)
def test_what_is_sent_must_be_what_was_declared(checks, tensors):
    said = refused(checks.tensors, "send_state", "state", 1, tensors)
    found = [f"{tuple(t.shape)} {t.dtype}" for t in tensors]
    assert said == (
        f"send_state of part 'state' with {found}, carry() declares "
        "['(2, 8) torch.float32', '(2, 1) torch.float32']"
    )
