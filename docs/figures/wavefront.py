"""Draw docs/figures/wavefront.svg: one training step under the schedule that the sweeps execute.

    python docs/figures/wavefront.py            writes the figure
    python docs/figures/wavefront.py --print    prints it

Which rank runs which task in which order comes from `tttscale.scan`; only the durations are made up: a layer
of a chunk takes one unit forward and two backward, and a carry or its gradient a quarter on its way.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from tttscale.scan.layout import Layout
from tttscale.scan.schedule import Phase, Schedule

RANKS, CHUNKS, LAYERS, KEPT = 4, 8, 6, 1
UNITS_PER_LAYER = {"forward": 1.0, "recompute": 1.0, "backward": 2.0}
TRANSIT_UNITS = 0.25

UNIT, ROW, GAP, LEFT, TOP, RIGHT, BOTTOM = 15.0, 30.0, 26.0, 62.0, 62.0, 14.0, 72.0
"""Pixels: a unit of time, a rank's bar, the space between bars, and the margins."""
FILL = {"forward": "#2f7ed8", "recompute": "#8c9aa8", "backward": "#d9642c"}
INK = "#6e7681"
"""Readable on white and on GitHub's dark background."""


@dataclass(frozen=True)
class Cell:
    """One layer of one chunk on its rank, from `begin` to `end` in units of time."""

    kind: str
    rank: int
    chunk: int
    layer: int
    begin: float
    end: float


def simulate() -> list[Cell]:
    """Place every task of the real schedule in time: a rank waits for what its next task receives."""
    layout = Layout("striped", length_tokens=CHUNKS, chunk_tokens=1, ranks=RANKS)
    schedule = Schedule(layout, (("state",),) * LAYERS)
    tasks = {
        rank: [t for phase in Phase for t in schedule.tasks(rank, phase)] for rank in range(RANKS)
    }
    clock, cells = [0.0] * RANKS, []
    ends: dict[tuple[Phase, int, int], float] = {}
    while any(tasks.values()):
        for rank, waiting in tasks.items():
            while waiting and _received(waiting[0], ends):
                clock[rank] = _run(waiting.pop(0), rank, clock[rank], layout, ends, cells)
    return cells


def _received(task, ends) -> bool:  # noqa: ANN001
    """Whether the neighbour's task that this one receives from has been placed."""
    before = task.chunk - 1 if task.phase is Phase.FORWARD else task.chunk + 1
    return not 0 <= before < CHUNKS or (task.phase, before, task.layers[-1]) in ends


def _run(task, rank, now, layout, ends, cells) -> float:  # noqa: ANN001
    forward = task.phase is Phase.FORWARD
    kept = layout.own(rank)[-KEPT:]
    again = UNITS_PER_LAYER["recompute"]
    if not forward and (0, task.chunk) not in kept:
        for layer in task.layers:
            cells.append(Cell("recompute", rank, task.chunk, layer, now, now + again))
            now += again
    for layer in task.layers if forward else reversed(task.layers):
        arrives = ends.get((task.phase, task.chunk + (-1 if forward else 1), layer))
        begin = now if arrives is None else max(now, arrives + TRANSIT_UNITS)
        now = begin + UNITS_PER_LAYER[task.phase.value]
        cells.append(Cell(task.phase.value, rank, task.chunk, layer, begin, now))
        ends[task.phase, task.chunk, layer] = now
    return now


def draw() -> str:
    """The figure as SVG text, the same for the same schedule."""
    cells = simulate()
    last = max(cell.end for cell in cells)
    turn = max(cell.end for cell in cells if cell.kind == "forward")
    width, height = LEFT + UNIT * last + RIGHT, TOP + RANKS * (ROW + GAP) + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="Helvetica, Arial, sans-serif" '
        f'font-size="12" fill="{INK}" role="img">',
        f"<title>One training step: {CHUNKS} chunks of a sequence on {RANKS} ranks, striped</title>",
        *(_tip(kind, colour) for kind, colour in {**FILL, "any": INK}.items()),
    ]
    lines += _heads(turn, last)
    lines += [_arrow(cell, cells) for cell in cells if _leaves(cell)]
    lines += [_box(cell) for cell in cells]
    lines += _labels(cells)
    lines += _legend(height)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _tip(kind: str, colour: str) -> str:
    return (
        f'<defs><marker id="{kind}" viewBox="0 0 6 6" refX="5.5" refY="3" markerWidth="5" '
        f'markerHeight="5" orient="auto"><path d="M0,0 L6,3 L0,6 z" fill="{colour}"/></marker></defs>'
    )


def _x(time: float) -> float:
    return LEFT + UNIT * time


def _y(rank: int) -> float:
    return TOP + rank * (ROW + GAP)


def _heads(turn: float, last: float) -> list[str]:
    rows = [
        f'<text x="{LEFT - 10:.0f}" y="{_y(rank) + ROW / 2 + 4:.1f}" text-anchor="end" '
        f'font-weight="bold">rank {rank}</text>'
        for rank in range(RANKS)
    ]
    titles = [
        f'<text x="{_x(0):.1f}" y="20" font-size="13" font-weight="bold" fill="{FILL["forward"]}">'
        "forward sweep</text>",
        f'<text x="{_x(turn):.1f}" y="20" font-size="13" font-weight="bold" fill="{FILL["backward"]}">'
        "backward sweep, last chunk first</text>",
    ]
    axis = TOP + RANKS * (ROW + GAP) + 2
    return [
        *rows,
        *titles,
        f'<path d="M{_x(0):.1f},{axis:.1f} H{_x(last):.1f}" stroke="{INK}" marker-end="url(#any)"/>',
        f'<text x="{_x(last):.1f}" y="{axis + 15:.1f}" text-anchor="end">time</text>',
    ]


def _leaves(cell: Cell) -> bool:
    """Whether a carry (right) or its gradient (left) leaves for another chunk."""
    right, left = cell.kind == "forward", cell.kind == "backward"
    return (right and cell.chunk < CHUNKS - 1) or (left and cell.chunk > 0)


def _arrow(cell: Cell, cells: list[Cell]) -> str:
    """From a layer's end to the same layer of the neighbouring chunk; around the ring as two stubs."""
    step = 1 if cell.kind == "forward" else -1
    to = next(
        c for c in cells if (c.kind, c.chunk, c.layer) == (cell.kind, cell.chunk + step, cell.layer)
    )
    begin, end, colour = _x(cell.end), _x(to.begin), FILL[cell.kind]
    pen = f'stroke="{colour}" stroke-width="1" fill="none" marker-end="url(#{cell.kind})"'
    below, above = ROW, 0.0
    if to.rank - cell.rank == step:
        side, entry = (below, above) if step > 0 else (above, below)
        begins, ends = _y(cell.rank) + side, _y(to.rank) + entry
        return f'<path d="M{begin:.1f},{begins:.1f} L{end:.1f},{ends:.1f}" {pen}/>'
    out, into = (_y(cell.rank) + ROW, 14.0), (_y(to.rank), -14.0)
    if step < 0:
        out, into = (_y(cell.rank), -14.0), (_y(to.rank) + ROW, 14.0)
    return (
        f'<path d="M{begin:.1f},{out[0]:.1f} v{out[1]:.0f}" {pen}/>'
        f'<path d="M{end:.1f},{into[0] + into[1]:.1f} v{-into[1]:.0f}" {pen}/>'
    )


def _box(cell: Cell) -> str:
    first = cell.layer == (LAYERS - 1 if cell.kind == "backward" else 0)
    gap = 1.5 if first else 0.0  # sets a chunk apart from the one before it on the same rank
    return (
        f'<rect x="{_x(cell.begin) + gap:.1f}" y="{_y(cell.rank):.1f}" '
        f'width="{UNIT * (cell.end - cell.begin) - gap:.1f}" height="{ROW:.0f}" fill="{FILL[cell.kind]}" '
        f'fill-opacity="{1.0 if cell.layer % 2 == 0 else 0.82}"/>'
    )


def _labels(cells: list[Cell]) -> list[str]:
    """The chunk's number over its cells of each kind."""
    lines = []
    for kind, chunk in dict.fromkeys((cell.kind, cell.chunk) for cell in cells):
        own = [c for c in cells if (c.kind, c.chunk) == (kind, chunk)]
        middle = (_x(own[0].begin) + _x(own[-1].end)) / 2
        text = f"chunk {chunk}" if kind != "recompute" else f"{chunk} again"
        lines.append(
            f'<text x="{middle:.1f}" y="{_y(own[0].rank) + ROW / 2 + 4:.1f}" text-anchor="middle" '
            f'font-weight="bold" fill="#ffffff">{text}</text>'
        )
    return lines


def _legend(height: float) -> list[str]:
    words = {
        "forward": "forward (one box per layer)",
        "recompute": "recomputed from the stored carry",
        "backward": "backward",
    }
    lines, x, y = [], LEFT, height - 34
    for kind, text in words.items():
        lines.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="12" height="12" fill="{FILL[kind]}"/>')
        lines.append(f'<text x="{x + 18:.0f}" y="{y + 10:.0f}">{text}</text>')
        x += 40 + 6.4 * len(text)
    lines.append(f'<path d="M{x:.0f},{y + 6:.0f} h20" stroke="{INK}" marker-end="url(#any)"/>')
    lines.append(
        f'<text x="{x + 28:.0f}" y="{y + 10:.0f}">a layer\'s carry, or its gradient</text>'
    )
    lines.append(
        f'<text x="{LEFT:.0f}" y="{y + 28:.0f}">{CHUNKS} chunks, {RANKS} ranks, {LAYERS} layers; chunk c on '
        f"rank c mod {RANKS}. What leaves at the last rank enters at the first.</text>"
    )
    return lines


if __name__ == "__main__":
    if "--print" in sys.argv:
        print(draw(), end="")
    else:
        Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
