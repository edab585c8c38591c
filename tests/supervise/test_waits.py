"""Who waits for whom, and what is wrong if all wait: against ranks that follow the real schedule."""

import random

import pytest

from tests.supervise.ring import Ring, member
from tttscale.scan.layout import Layout
from tttscale.supervise import waits
from tttscale.supervise.court import Court
from tttscale.supervise.deadline import Rules
from tttscale.supervise.member import State

LAYOUTS = [
    (kind, ranks, sequences)
    for kind in ("striped", "contiguous")
    for ranks in (2, 3, 4)
    for sequences in (1, 2)
    if ranks % sequences == 0 or sequences == 1
]
FOREVER = 10_000.0


def judged(ring, kind, found, stopped=None):
    court = Court(ring.world)
    court.rules = Rules(60, ring.sequence, kind)
    for rank, (op, seconds) in enumerate(found):
        court.members[rank] = member(rank, op, FOREVER + seconds, stopped=rank == stopped)
    verdict, _ = court.hang(0.0)
    assert verdict.exit_code == 72
    return verdict, court


@pytest.mark.parametrize(("kind", "ranks", "sequences"), LAYOUTS)
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_busy_rank_that_hangs_anywhere_is_the_culprit(kind, ranks, sequences, replicas):
    ring = Ring(Layout(kind, 12 * 8, 8, ranks, sequences), 2, replicas)
    for rank in range(ring.world):
        for at, op in enumerate(ring.ops[rank]):
            if op.activity in ("wait", "idle", "flush", "reduce"):
                continue
            verdict, _ = judged(ring, kind, ring.stuck(rank, at))
            if op.activity != "optimizer":  # which all ranks are in then
                assert verdict.rank == rank
                assert op.activity in verdict.cause


@pytest.mark.parametrize(("kind", "ranks", "sequences"), LAYOUTS)
def test_a_rank_that_is_stopped_anywhere_is_the_culprit(kind, ranks, sequences):
    ring = Ring(Layout(kind, 12 * 8, 8, ranks, sequences), 2)
    for rank in range(ring.world):
        for at in range(len(ring.ops[rank])):
            verdict, _ = judged(ring, kind, ring.stuck(rank, at), stopped=rank)
            assert verdict.rank == rank
            assert verdict.cause.startswith("stopped (SIGSTOP) for ")


@pytest.mark.parametrize(("kind", "ranks", "sequences"), LAYOUTS)
@pytest.mark.parametrize("replicas", [1, 2])
def test_a_message_that_is_lost_names_its_link(kind, ranks, sequences, replicas):
    """Every message of a step: the receiver is named, and the sender as the other end."""
    ring = Ring(Layout(kind, 12 * 8, 8, ranks, sequences), 2, replicas)
    tried = 0
    for sender in range(ring.world):
        for op in ring.ops[sender]:
            receiver = next(
                (r for r in range(ring.world) if any(o.needs == op.sends for o in ring.ops[r])),
                None,
            )
            if op.sends is None or receiver in (None, sender):
                continue
            found = ring.stuck(-1, -1, loses=op.sends)
            verdict, _ = judged(ring, kind, found)
            assert verdict.rank == receiver, (op, found)
            words = f"link between rank {sender} and rank {receiver}, or one of them: rank {receiver} waits"
            assert verdict.cause.startswith(words)
            tried += 1
    boundaries = 11 if kind == "striped" else ranks - 1
    assert tried == boundaries * sequences * 2 * 2 * replicas  # layers, directions


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
def test_who_never_sends_is_the_culprit_also_if_it_seems_to_wait(kind):
    """Its page says wait, but what it waits for has been sent: it is a link's receiving end."""
    ring = Ring(Layout(kind, 16 * 8, 8, 4), 2)
    tried = 0
    for rank in range(4):
        for at, op in enumerate(ring.ops[rank]):
            if op.activity != "wait" or not isinstance(op.needs, tuple):
                continue
            if not any(o.sends == op.needs for r in range(4) if r != rank for o in ring.ops[r]):
                continue  # its own
            verdict, _ = judged(ring, kind, ring.stuck(rank, at))
            assert verdict.rank == rank, op
            tried += 1
    assert tried == (15 if kind == "striped" else 3) * 2 * 2


def test_a_rank_that_skips_a_sum_is_odd():
    ring = Ring(Layout("striped", 12 * 8, 8, 4), 2)
    idle = next(op for op in ring.ops[0] if op.needs == "sweeps")
    reduce = next(op for op in ring.ops[0] if op.activity == "reduce")
    verdict, _ = judged(ring, "striped", [(idle, 1), (idle, 1), (reduce, 0), (idle, 2)])
    assert verdict.rank == 2
    words = "it waits for sum of gradients, step 7, and all others for sum over all ranks, step 7"
    assert verdict.cause.startswith(words)


def test_all_in_the_same_sum():
    ring = Ring(Layout("striped", 12 * 8, 8, 4), 2)
    idle = next(op for op in ring.ops[0] if op.needs == "sweeps")
    verdict, _ = judged(ring, "striped", [(idle, 1), (idle, 3), (idle, 0), (idle, 2)])
    assert verdict.rank == 1
    assert verdict.cause.startswith("all ranks wait, it the longest: for sum over all ranks")


def test_one_that_computes_while_it_should_wait():
    ring = Ring(Layout("striped", 12 * 8, 8, 4), 2)
    idle = next(op for op in ring.ops[0] if op.needs == "sweeps")
    court = Court(4)
    for rank in range(4):
        court.members[rank] = member(rank, idle, FOREVER, cpu_share=0.98 if rank == 2 else 0.01)
    assert court.hang(0.0)[0].rank == 2
    for rank in range(4):  # as under MPI, which computes while it waits
        court.members[rank] = member(rank, idle, FOREVER + rank, cpu_share=0.98)
    assert court.hang(10.0)[0].rank == 3


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (State.LEFT, "it has ended already, and the others still wait"),
        (State.UNSEEN, "its supervisor has not come, and all others wait"),
    ],
)
def test_one_that_is_not_here(state, words):
    ring = Ring(Layout("striped", 12 * 8, 8, 4), 2)
    idle = next(op for op in ring.ops[0] if op.needs == "sweeps")
    court = Court(4)
    for rank in range(4):
        court.members[rank] = member(rank, idle, FOREVER)
    court.members[2].state, court.members[2].sign = state, None
    verdict, _ = court.hang(0.0)
    assert (verdict.rank, verdict.cause) == (2, f"{words}; no progress for 10000 s")


def test_the_line_says_who_waits_for_whom():
    ring = Ring(Layout("striped", 16 * 8, 8, 4), 3)
    at = next(
        i
        for i, op in enumerate(ring.ops[2])
        if (op.activity, op.chunk, op.layer) == ("advance", 6, 2)
    )
    found = ring.stuck(2, at)
    members = {r: member(r, op, 61.0) for r, (op, _) in enumerate(found)}
    assert waits.line(members, Rules(60, 4)) == (
        "rank 0 waits for rank 3 (forward state, chunk 8, layer 2, 61 s); "
        "rank 1 waits for rank 0 (forward state, chunk 9, layer 2, 61 s); "
        "rank 3 waits for rank 2 (forward state, chunk 7, layer 2, 61 s); "
        "rank 2: forward advance, chunk 6, layer 2 for 61 s"
    )


def test_the_line_of_many_ranks_is_short():
    ring = Ring(Layout("striped", 400 * 8, 8, 100), 1)
    at = next(i for i, op in enumerate(ring.ops[50]) if op.activity == "project")
    found = ring.stuck(50, at)
    members = {r: member(r, op, 61.0) for r, (op, _) in enumerate(found)}
    line = waits.line(members, Rules(60, 100))
    assert "95 more alike" in line
    assert "rank 50: " in line
    assert len(line) < 600


@pytest.mark.parametrize("seed", range(20))
def test_any_rank_anywhere(seed):
    """Random rings, with one culprit that hangs where it does not wait."""
    rng = random.Random(seed)
    kind, ranks = rng.choice(["striped", "contiguous"]), rng.choice([2, 4, 8, 16])
    ring = Ring(Layout(kind, ranks * 3 * 8, 8, ranks), rng.choice([1, 3]), rng.choice([1, 2]))
    rank = rng.randrange(ring.world)
    busy = [i for i, op in enumerate(ring.ops[rank]) if op.activity in ("advance", "project")]
    verdict, _ = judged(ring, kind, ring.stuck(rank, rng.choice(busy)))
    assert verdict.rank == rank
