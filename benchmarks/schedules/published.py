"""The simulator beside an independent one, on the grid that was published for it, under the same costs.

The other simulator schedules a graph of all chunks and layers greedily by priority, on each rank whatever is
ready first; ours runs the ranks' fixed order. Its efficiencies are cited, in per cent of one rank.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from tttscale.plan.costs import Costs, Line, StepCosts, Wire
from tttscale.plan.simulate import simulate
from tttscale.scan.layout import Kind, Layout
from tttscale.scan.schedule import Schedule

TOKENS = 2**20
LAYERS = 24
RANKS = (2, 4, 8, 16, 64, 256)
WIDTH, INNER, VOCABULARY, HEADS, DIM = 2048, 5504, 32000, 32, 64
PUBLISHED: dict[str, dict[str, tuple[float | None, ...]]] = {
    "linear": {
        "striped, 2Ki": (86, 86, 86, 86, 76, 21),
        "striped, 8Ki": (97, 97, 98, 97, 64, 17),
        "striped, 32Ki": (101, 102, 103, 99, 39, 10),
        "striped, 8Ki, 4 sequences, rotated": (97, 97, 98, 99, 99, 69),
        "4 replicas of R / 4, striped, 8Ki": (None, 97, 97, 97, 97, 64),
        "striped, 8Ki, all kept": (127, 126, 126, 122, 69, 17),
        "contiguous, a chunk on each rank": (100, 97, 91, 81, 49, 19),
    },
    "mlp": {
        "striped, 2Ki": (91, 91, 91, 91, 60, 15),
        "striped, 8Ki": (98, 99, 99, 97, 52, 13),
        "striped, 32Ki": (101, 102, 102, 94, 34, 8),
        "striped, 8Ki, 4 sequences, rotated": (98, 99, 99, 100, 94, 53),
        "4 replicas of R / 4, striped, 8Ki": (None, 98, 98, 99, 97, 52),
        "striped, 8Ki, all kept": (127, 127, 126, 121, 53, 13),
        "contiguous, a chunk on each rank": (99, 94, 87, 75, 41, 14),
    },
}
"""Learner -> schedule -> efficiency by `RANKS`."""
OTHER_ORDER: dict[tuple[str, str, int], float] = {
    ("linear", "striped, 8Ki", 64): 68.2,
    ("linear", "4 replicas of R / 4, striped, 8Ki", 256): 68.2,
    ("linear", "striped, 8Ki, 4 sequences, rotated", 64): 106.1,
    ("mlp", "striped, 8Ki, 4 sequences, rotated", 64): 105.7,
}
"""What the other simulator finds if it is given our order, where orders differ."""


class Case(NamedTuple):
    """One schedule of the grid."""

    chunk_tokens: int | None
    """None: a chunk on each rank."""
    layout: Kind = "striped"
    sequences: int = 1
    replicas: int = 1
    kept: int = 1


CASES = {
    "striped, 2Ki": Case(2048),
    "striped, 8Ki": Case(8192),
    "striped, 32Ki": Case(32768),
    "striped, 8Ki, 4 sequences, rotated": Case(8192, sequences=4, kept=4),
    "4 replicas of R / 4, striped, 8Ki": Case(8192, replicas=4),
    "striped, 8Ki, all kept": Case(8192, kept=10**6),
    "contiguous, a chunk on each rank": Case(None, "contiguous", kept=0),
}


def published_costs(learner: str) -> Costs:
    """The other simulator's costs: 400 TFLOP/s, chains of 0.25 or 0.6 us a token, 40 GB/s."""
    micro = 1e-6
    product = 2 * micro / 400e6
    dense = product * (4 * WIDTH**2 + 3 * WIDTH * INNER)
    outside = Line(512 * dense + 60 * micro, dense)
    chain = Line(10 * micro, {"linear": 0.25, "mlp": 0.6}[learner] * micro)
    head = product * WIDTH * VOCABULARY
    wire = Wire(10 * micro, 40e9)
    lines = {
        "forward.project": _times(outside, 0.25),
        "forward.advance": chain,
        "forward.finish": _times(outside, 0.75),
        "backward.finish": _times(outside, 1.5),
        "backward.advance": _times(chain, 2.5),
        "backward.project": _times(outside, 0.5),
    }
    return Costs(
        source="of the independent simulator: 400 TFLOP/s, chains of "
        f"{chain.per_token / micro:g} us a token, 40 GB/s",
        kinds=(learner,) * LAYERS,
        layers={learner: lines},
        ends={"forward.head": Line(0, head), "backward.head": Line(0, 2 * head)},
        same_host=wire,
        between_hosts=wire,
        step_seconds=StepCosts(Wire(0, 1e12), Wire(0, 1e12), 0, 0),
    )


def state_bytes(learner: str) -> int:
    """Bytes of one layer's state."""
    floats = {"linear": DIM * DIM + DIM, "mlp": 8 * DIM * DIM + 5 * DIM}[learner]
    return 4 * HEADS * floats


def one_rank_seconds(costs: Costs, learner: str, chunk: int = 32768) -> float:
    """Seconds of a sequence on one rank: all recomputed, the head run in both forwards, as published."""
    lines = costs.layers[learner]
    forward = sum(line.seconds(chunk) for name, line in lines.items() if name.startswith("forward"))
    backward = sum(line.seconds(chunk) for name, line in lines.items() if name.startswith("back"))
    head = costs.ends["forward.head"].seconds(chunk)
    return TOKENS // chunk * (LAYERS * (2 * forward + backward) + 4 * head)


def efficiency(learner: str, case: Case, ranks: int) -> float:
    """Ours, in per cent of one rank."""
    costs, size = published_costs(learner), state_bytes(learner)
    share = ranks // case.replicas
    chunk = case.chunk_tokens or TOKENS // share
    layout = Layout(case.layout, TOKENS, chunk, share, case.sequences)
    schedule = Schedule(layout, (("state",),) * LAYERS)
    found = simulate(schedule, lambda key: size, costs, kept=case.kept, ranks_per_host=ranks)
    return 100 * case.sequences * one_rank_seconds(costs, learner) / (share * found.seconds)


def compare() -> Iterator[dict[str, Any]]:
    """Every cell of the grid."""
    for learner, rows in PUBLISHED.items():
        for name, cells in rows.items():
            for ranks, cited in zip(RANKS, cells, strict=True):
                if cited is not None:
                    ours = efficiency(learner, CASES[name], ranks)
                    cell = {"learner": learner, "schedule": name, "ranks": ranks}
                    yield cell | {"published": cited, "ours": round(ours, 1)}


def _times(line: Line, factor: float) -> Line:
    return Line(line.fixed * factor, line.per_token * factor)
