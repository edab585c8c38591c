"""The order of work, as documentation: what one rank does, and when, in both layouts."""

import pytest

from tttscale.scan.layout import Layout
from tttscale.scan.schedule import Phase, Schedule

PARTS = (("state",), ("conv", "state"))  # two layers, the second with a convolution


def order(kind, rank, ranks, chunks, sequences=1):
    """Rank's tasks as text: phase, sequence.chunk, layers; and what each receives from another rank."""
    schedule = Schedule(Layout(kind, 10 * chunks, 10, ranks, sequences), PARTS)
    lines = []
    for phase in Phase:
        tasks = schedule.tasks(rank, phase)
        for task in tasks:
            layers = "+".join(map(str, task.layers))
            lines.append(f"{phase} chunk {task.chunk} layers {layers}")
    return lines


def test_rank_1_of_2_striped_takes_every_other_chunk_through_all_layers():
    assert order("striped", rank=1, ranks=2, chunks=6) == [
        "forward chunk 1 layers 0+1",
        "forward chunk 3 layers 0+1",
        "forward chunk 5 layers 0+1",
        "backward chunk 5 layers 0+1",
        "backward chunk 3 layers 0+1",
        "backward chunk 1 layers 0+1",
    ]


def test_rank_1_of_2_contiguous_takes_its_half_through_one_layer_after_the_other():
    assert order("contiguous", rank=1, ranks=2, chunks=6) == [
        "forward chunk 3 layers 0",
        "forward chunk 4 layers 0",
        "forward chunk 5 layers 0",
        "forward chunk 3 layers 1",
        "forward chunk 4 layers 1",
        "forward chunk 5 layers 1",
        "backward chunk 5 layers 1",
        "backward chunk 4 layers 1",
        "backward chunk 3 layers 1",
        "backward chunk 5 layers 0",
        "backward chunk 4 layers 0",
        "backward chunk 3 layers 0",
    ]


def received(kind, rank, phase):
    schedule = Schedule(Layout(kind, 60, 10, 2), PARTS)
    return [
        f"{key.part} of layer {key.layer} over boundary {key.boundary} from rank {source}"
        for source, key in schedule.incoming(rank, phase)
    ]


def test_rank_1_striped_receives_over_every_boundary_to_its_left():
    assert received("striped", 1, Phase.FORWARD)[:4] == [
        "state of layer 0 over boundary 0 from rank 0",
        "conv of layer 1 over boundary 0 from rank 0",
        "state of layer 1 over boundary 0 from rank 0",
        "state of layer 0 over boundary 2 from rank 0",
    ]
    # Gradients come from the right, layers and parts in reverse; chunk 5 is the last and receives none.
    assert received("striped", 1, Phase.BACKWARD)[:4] == [
        "state of layer 1 over boundary 3 from rank 0",
        "conv of layer 1 over boundary 3 from rank 0",
        "state of layer 0 over boundary 3 from rank 0",
        "state of layer 1 over boundary 1 from rank 0",
    ]


def test_contiguous_ranks_meet_at_one_boundary():
    assert received("contiguous", 1, Phase.FORWARD) == [
        "state of layer 0 over boundary 2 from rank 0",
        "conv of layer 1 over boundary 2 from rank 0",
        "state of layer 1 over boundary 2 from rank 0",
    ]
    assert received("contiguous", 1, Phase.BACKWARD) == []
    assert received("contiguous", 0, Phase.BACKWARD) == [
        "state of layer 1 over boundary 2 from rank 1",
        "conv of layer 1 over boundary 2 from rank 1",
        "state of layer 0 over boundary 2 from rank 1",
    ]


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_what_is_sent_over_a_boundary_is_received_once_and_in_the_order_of_sending(kind, ranks):
    schedule = Schedule(Layout(kind, 70, 10, ranks, 2), PARTS)
    layout = schedule.layout
    for phase, offset in ((Phase.FORWARD, -1), (Phase.BACKWARD, +1)):
        for receiver in range(ranks):
            wanted = list(schedule.incoming(receiver, phase))
            for sender in range(ranks):
                sent = [
                    key
                    for task in schedule.tasks(sender, phase)
                    for key in _sent(schedule, task)
                    if layout.neighbour(task.sequence, task.chunk, -offset) == receiver != sender
                ]
                assert sent == [key for source, key in wanted if source == sender]


def _sent(schedule, task):
    """A task sends what the next chunk's task receives."""
    step = 1 if task.phase is Phase.FORWARD else -1
    if not 0 <= task.chunk + step < schedule.layout.chunks:
        return []
    follower = type(task)(task.phase, task.sequence, task.chunk + step, task.layers)
    return list(schedule.received(follower))
