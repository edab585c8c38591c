"""The report on schedules: simulated, rehearsed, and what others would gain.

    python -m benchmarks.schedules.report [--out benchmarks/schedules]

Takes about ten minutes of one core; nothing in it depends on how fast the machine is.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.schedules.explored import Setting, explore, model_config
from benchmarks.schedules.published import OTHER_ORDER, RANKS, compare, published_costs
from benchmarks.schedules.rehearsals import GRID, TARGETS, rehearsals
from tttscale.bench import report
from tttscale.plan.costs import assumed

Data = dict[str, list[dict[str, Any]]]
_WITHIN = 2
"""Points by which both simulators may differ before it is explained."""


def explored() -> list[dict[str, Any]]:
    """Gains of everything tried, for both learners on 8 and on 64 ranks."""
    rows = []
    for learner in ("linear", "mlp"):
        for name, costs in (
            ("predicted chains", assumed("h200", model_config(learner))),
            ("longer chains", published_costs(learner)),
        ):
            for ranks, chunk in ((8, 16384), (64, 4096)):
                setting = Setting(learner, ranks, chunk, costs)
                now = setting.now()
                case = {"learner": learner, "costs": name, "ranks": ranks, "chunk_tokens": chunk}
                facts = {"seconds": now.seconds, "possible_seconds": now.possible_seconds}
                rows.append({**case, **facts, "gains": dict(explore(setting))})
    return rows


def render(data: Data) -> list[tuple[str, str]]:
    """The page's sections."""
    return [
        ("Two simulators", _TWO.format(**_differences(data)) + _grid(data["published"])),
        ("The real code, rehearsed", _REHEARSED + _rehearsed(data["targets"])),
        ("More rehearsals", _MORE.format(worst=_worst(data)) + _rehearsed(data["grid"])),
        ("What other schedules would gain", _EXPLORED + _gains(data["explored"])),
        ("What follows", _FOLLOWS),
    ]


def _differences(data: Data) -> dict[str, object]:
    cells = data["published"]
    far = [cell for cell in cells if abs(cell["ours"] - cell["published"]) > _WITHIN]
    told = [
        f"{cell['learner']}, {cell['schedule']}, R = {cell['ranks']}: {cell['published']} published, "
        f"{cell['ours']} here, {OTHER_ORDER[_place(cell)]} in the other simulator with this order"
        for cell in far
        if _place(cell) in OTHER_ORDER
    ]
    assert len(told) == len(far), "a difference that is not explained"
    return {
        "cells": len(cells),
        "near": len(cells) - len(far),
        "far": "\n".join(f"- {t}" for t in told),
    }


def _place(cell: dict[str, Any]) -> tuple[str, str, int]:
    return cell["learner"], cell["schedule"], cell["ranks"]


def _grid(cells: list[dict[str, Any]]) -> str:
    rows = {}
    for cell in cells:
        row = rows.setdefault(
            (cell["learner"], cell["schedule"]),
            {"learner": cell["learner"], "schedule": cell["schedule"]}
            | {f"R = {ranks}": "" for ranks in RANKS},
        )
        row[f"R = {cell['ranks']}"] = f"{cell['published']} / {cell['ours']:.1f}"
    return report.table(list(rows.values()))


def _rehearsed(rows: list[dict[str, Any]]) -> str:
    return report.table(
        [
            {
                "run": _run(row),
                "costs": row["costs"],
                "ranks": row["ranks"],
                "chunk": f"{row['chunk_tokens'] // 1024}Ki",
                "rehearsed, s": f"{row['seconds']:.4f}",
                "/ simulated": f"{row['seconds'] / row['simulated_seconds']:.4f}",
                "/ possible": f"{row['seconds'] / row['possible_seconds']:.3f}",
                "efficiency": f"{100 * row['one_rank_seconds'] / row['ranks'] / row['seconds']:.1f} %",
                **{
                    name: f"{100 * row[name]:.1f} %"
                    for name in ("busy", "ramp", "starved", "exposed")
                },
            }
            for row in rows
        ]
    )


def _run(row: dict[str, Any]) -> str:
    words = [f"TTT-{ {'linear': 'Linear', 'mlp': 'MLP'}[row['learner']] }"]
    words += ["contiguous"] * (row["layout"] == "contiguous")
    words += [f"{row['sequences']} sequences"] * (row["sequences"] > 1)
    words += [f"{row['kept']:g} kept"] * (row["kept"] != 1)
    words += ["no convolutions"] * row["preset"].endswith("transformer")
    words += ["a short last chunk"] * (row["tokens"] % row["chunk_tokens"] != 0)
    return ", ".join(words)


def _worst(data: Data) -> str:
    ratios = [
        row["seconds"] / row["simulated_seconds"] - 1 for row in data["targets"] + data["grid"]
    ]
    return f"{100 * max(map(abs, ratios)):.4f} %"


def _gains(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["gains"]))
    table = [
        {"tried": "step now, s (possible)"}
        | {_column(r): f"{r['seconds']:.3f} ({r['possible_seconds']:.3f})" for r in rows}
    ]
    for name in names:
        found = {_column(r): _gain(r["gains"].get(name)) for r in rows}
        table.append({"tried": name} | found)
    return report.table(table)


def _column(row: dict[str, Any]) -> str:
    learner = {"linear": "Linear", "mlp": "MLP"}[row["learner"]]
    return f"{learner}, R = {row['ranks']}, {row['costs']}"


def _gain(share: float | None) -> str:
    return (
        ""
        if share is None
        else f"{100 * share + 0.0:+.1f} %".replace("+0.0 %", "0").replace("-0.0 %", "0")
    )


_TWO = (
    "Efficiency in per cent of one rank, *published / ours*: a sequence of 1,048,576 tokens of the "
    "1.3B model (more than 100: the last own chunk keeps its activations). The published ones are of "
    "an independent simulator, which schedules a graph of all chunks and layers greedily, and are "
    "cited from its table; both compute with its costs: 400 TFLOP/s with half of it at 512 tokens, "
    "chains of 0.25 (TTT-Linear) or 0.6 us a token, backward 2.5 times, messages at 40 GB/s after 10 "
    "us. Assumed, and chosen before the kernels were written: the *longer chains* of the other "
    "tables.\n\n"
    "{near} of {cells} cells lie within 2 points. In the others the orders differ: the greedy one "
    "begins a recomputation while it waits for a gradient, which then waits for the recomputation; "
    "and of several sequences it prefers the first one, where the real order takes them chunk by "
    "chunk:\n\n"
    "{far}\n\n"
    "Left out, since they are other schedules: head-parallel all-to-all, a pipeline over layers, "
    "backward first (each sequence's backward before the next one's forward), and scans on a second "
    "stream or in groups of heads, which come below.\n\n"
)
_REHEARSED = (
    "One sequence of 1,048,576 tokens, 24 layers, one kept chunk on each rank. Every rank is a thread"
    " of one process that runs the real `Schedule`, `Sweeps`, ports, receive queue and transport on a"
    " tiny model; its compute takes virtual time, which messages carry along. *Predicted chains*: "
    "assumed for an H200, 396 TFLOP/s, chains as a model of the compiled kernels predicts them "
    "([chains_predicted](chains_predicted.md)); nothing was measured on a GPU. *Efficiency*: the time"
    " of one rank with chunks of 32Ki, divided by ranks x time. *Possible*: the larger of work / "
    "ranks and the serial chain, each with its ramp. Sweeps only: no reduction, no optimizer, no "
    "data.\n\n"
)
_MORE = (
    "Four layers, the other axes varied. The largest difference between the real code and the "
    "simulator in both tables is {worst}: the simulator describes exactly what the code does.\n\n"
)
_EXPLORED = (
    "By how much a step's sweeps would be longer (+) or shorter (-) than as it is built, one "
    "sequence, one kept chunk: predictions of the simulator, or, for the second stream, of list "
    "scheduling on two engines a rank (against the same with one). Of several sequences the time of "
    "one is compared; each rank keeps as many chunks as there are sequences. *Summed under the last "
    "wave* counts the reduction and the collection of parameters into the step (1.3 G of fp32 at 40 "
    "GB/s). *Products slowed*: while a scan runs it takes 32 of 132 multiprocessors.\n\n"
)
_FOLLOWS = (
    "- What a rank cannot fill is its ramp: (R - 1) hand-overs of the chain at the beginning and at "
    "the end. Shorter chunks, several sequences with rotated starts, or scans that take less time for"
    " fewer heads make it shorter; no order of the same work does.\n"
    "- Keeping activations is worth the most where work decides, and in proportion to the memory: "
    "half a chunk is worth half. Which chunk is kept does not matter: ranks that have a longer wait "
    "in the middle have a shorter one at the ends, and the last rank has none in the middle. Of a "
    "chunk that is kept in part the first layers are recomputed before the last ones go back; "
    "recomputed between them, they would hold up the wave where the chain decides (by 1 to 3 %).\n"
    "- A second stream hides the scan's share of the work, less what it takes from the products.\n"
    "- Summing gradients under the last wave gains most where ranks are many and steps short.\n"
    "- Groups of heads gain only if a scan of a quarter of the heads takes a quarter of the time. "
    "Ours has a program for each head on a multiprocessor of its own, so it does not: the state of "
    "all heads is there at once, and what is left is the wire, which is short.\n"
    "- Weight gradients put off gain nothing: where work decides, no work is saved; where the chain "
    "decides, the last chunk's way through all layers follows it, and its own weight gradients "
    "would follow that.\n"
)


def main() -> None:
    """Simulate, rehearse and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/schedules"))
    asked = parser.parse_args()
    data: Data = {
        "published": list(compare()),
        "targets": list(rehearsals(TARGETS)),
        "grid": list(rehearsals(GRID)),
        "explored": explored(),
    }
    report.write(asked.out, "Schedules, simulated and rehearsed", render(data), data)


if __name__ == "__main__":
    main()
