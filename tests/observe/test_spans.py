"""Which boundary a part crosses, in waits and sends of both directions."""

import pytest

from tttscale.observe.spans import Span


@pytest.mark.parametrize(
    ("activity", "run", "boundary"),
    [
        ("wait", "forward", 4),  # chunk 5 waits for what crosses the boundary after chunk 4
        ("send", "forward", 5),
        ("wait", "backward", 5),  # its gradient comes from chunk 6
        ("send", "backward", 4),
    ],
)
def test_states_go_right_and_gradients_left(activity, run, boundary):
    assert Span(0.0, 1.0, activity, run, sequence=0, chunk=5, layer=1).boundary == boundary


def test_both_ends_of_a_message_name_the_same_boundary():
    for run, sender, receiver in (("forward", 2, 3), ("backward", 3, 2)):
        send, wait = (
            Span(0.0, 1.0, activity, run, chunk=chunk)
            for activity, chunk in (("send", sender), ("wait", receiver))
        )
        assert send.boundary == wait.boundary == 2
