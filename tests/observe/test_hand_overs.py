"""The four times of a hand-over: messages with known answers, and all of a schedule."""

import pytest

from tests.observe.by_hand import send, trace, wait, work
from tests.traces import make_trace
from tttscale.observe.hand_overs import hand_overs
from tttscale.observe.overlap import analyse
from tttscale.observe.span_table import span_table
from tttscale.observe.spans import RankTrace, StepMark, Trace


def times(found, index=0):
    """Upstream, wire, hidden, exposed, the sender's own, and whether the arrival was seen."""
    names = ("upstream", "wire", "hidden", "exposed", "send")
    values = (float(getattr(found, f"{name}_seconds")[index]) for name in names)
    return (*values, bool(found.seen[index]))


def matched(*tracks):
    return hand_overs(span_table(trace(*tracks)))


def test_the_receiver_waits_for_the_sender_and_then_for_the_wire():
    found = matched([work(0, 2), send(2, 2.5)], [wait(1, 4)])
    assert times(found) == (1, 2, 0, 2, 0.5, True)


def test_a_part_of_the_wire_is_hidden_under_compute():
    found = matched([send(1, 1.1)], [work(0, 2, chunk=1), wait(2, 3)])
    assert times(found) == (0, 2, 1, 1, pytest.approx(0.1), True)


def test_an_unseen_arrival_took_what_others_took_on_that_edge():
    seen = [(1.0, 0.5), (3.0, 0.3), (5.0, 0.4)]
    sends = [send(t, t + 0.1, layer=i) for i, (t, _) in enumerate(seen)]
    waits = [wait(t - 0.5, t + wire, layer=i) for i, (t, wire) in enumerate(seen)]
    late = matched([*sends, send(6, 6.1, layer=3)], [*waits, wait(9, 9, layer=3)])
    assert times(late, 3) == (
        0,
        pytest.approx(0.4),
        pytest.approx(0.4),
        0,
        pytest.approx(0.1),
        False,
    )
    early = matched([*sends, send(6, 6.1, layer=3)], [*waits, wait(6.2, 6.2, layer=3)])
    assert times(early, 3)[1] == pytest.approx(0.2)  # never more than the gap


def test_an_edge_on_which_nothing_was_seen_is_compared_with_the_others():
    found = matched(
        [send(1, 1, layer=0), send(3, 3, layer=1)],
        [wait(0, 1.25, layer=0), wait(7, 7, layer=1), send(7, 7, chunk=1)],
        [wait(9, 9, chunk=2)],
    )
    assert [times(found, i)[1] for i in range(3)] == [0.25, 0.25, 0.25]
    assert list(found.seen) == [True, False, False]


def test_a_short_wait_after_a_long_gap_is_no_arrival():
    """Taking a message that has long been there costs a moment, too."""
    found = matched([send(1, 1.1)], [work(0, 8, chunk=1), wait(8, 8.001)])
    assert times(found)[5] is False
    assert times(found)[1] == pytest.approx(0.001)


def test_gradients_go_to_the_left():
    found = matched(
        [wait(1, 4, chunk=0, run="backward")], [work(0, 2, chunk=1), send(2, 2, 1, "backward")]
    )
    assert times(found) == (1, 2, 0, 2, 0, True)
    assert (found.sender[0], found.receiver[0], found.boundary[0]) == (1, 0, 0)
    assert found.sums("backward", steps=1)[0].direction == "gradients"


@pytest.mark.parametrize(
    "other",
    [
        send(1, 1, chunk=1),
        send(1, 1, run="backward", chunk=2),
        send(1, 1, layer=1),
        send(1, 1, part="qk_conv"),
        send(1, 1, sequence=1),
    ],
)
def test_only_the_message_itself_is_matched(other):
    found = matched([other], [wait(0, 4)])
    assert (len(found), found.unmatched) == (0, 1)


def test_replicas_and_steps_are_told_apart():
    tracks = [[send(1, 1), send(11, 11)], [wait(0, 2), wait(10, 14)]]
    marks = [StepMark(1, 0, 9), StepMark(2, 10, 19)]
    ranks = [
        RankTrace(rank, replica=rank // 2, steps=marks, spans=tracks[rank % 2]) for rank in range(4)
    ]
    found = hand_overs(span_table(Trace("measured", ranks)))
    pairs = zip(found.sender, found.receiver, found.step, found.wire_seconds, strict=True)
    assert sorted(pairs) == [(0, 1, 0, 1), (0, 1, 1, 3), (2, 3, 0, 1), (2, 3, 1, 3)]


def test_what_is_sent_between_steps_is_no_part_of_them():
    ranks = trace([send(11, 11)], [wait(10.5, 12)])
    assert len(analyse(ranks).hand_overs) == 0


def test_a_clock_that_is_wrong_makes_no_negative_time():
    found = matched([send(5, 5.1)], [wait(1, 4)])
    assert times(found)[:4] == (3, 0, 0, 0)
    assert found.inverted == 1


@pytest.mark.parametrize("layout", ["striped", "contiguous"])
def test_every_message_of_a_schedule_is_matched(layout):
    for ranks, chunks, sequences in ((2, 5, 1), (3, 7, 2), (4, 4, 3)):
        trace = make_trace(
            ranks, chunks, 2, sequences=sequences, replicas=2, steps=2, layout=layout
        )
        found = analyse(trace)
        sent = sum(span.activity == "send" for rank in trace.ranks for span in rank.spans)
        assert len(found.hand_overs) == sent
        assert (found.unmatched, found.inverted) == (0, 0)
        # a wire of 30 us, after 4 us of sending that vary a little
        seen = found.hand_overs.wire_seconds[found.hand_overs.seen]
        assert seen.min() > 33e-6
        assert seen.max() < 35e-6
