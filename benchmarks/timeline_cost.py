"""What the timeline costs a step: none at all, the sums that are always kept, and a whole trace, in turns.

python -m benchmarks.timeline_cost [--rounds 12] [--out benchmarks/timeline_cost]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tttscale.bench import report
from tttscale.bench.step_worker import small_config
from tttscale.comm.threads import ThreadTransport, ThreadWorld
from tttscale.data import ArraySplit, Windows
from tttscale.model import TTTForCausalLM
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Layout
from tttscale.scan.sweep import Sweeps

WAYS = ("none", "sums", "trace")
TOKENS = 16384
_NOTE = (
    "Both sweeps of the quickstart's model over {tokens:,} tokens on two ranks, which are threads of one "
    "process, so that its CPU time holds all of their work; keep_chunks 1, fp32. *CPU s*: median of {rounds} "
    "rounds, the three ways in turns in one process. *beside none*: median of the ratios within a round, and "
    "the quartiles; the CPU time of two equal steps differs by more than the sums cost. *counted*: calls of "
    "a step x the seconds of one call (measured alone, in a loop), over the step's CPU time, which has no "
    "such noise; the trace's also has its hooks, which only the ratio contains."
)


class _Silent:
    """Calls that do nothing, counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *place: Any) -> None:
        self.calls += 1


def measure(chunk_tokens: int, rounds: int) -> dict[str, Any]:
    """Time steps of every way in turns.

    Args:
        chunk_tokens: C.
        rounds: steps of each.
    """
    torch.set_num_threads(1)
    ranks = [_rank(chunk_tokens)(transport) for transport in _transports()]
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    silent = _Silent()
    for number in range(rounds + 1):
        for way in WAYS:
            took = _step(ranks, way, silent)
            if number:  # the first round warms up
                seconds[way].append(took)
    calls = silent.calls / (rounds + 1)
    ratios = {
        way: sorted(a / b for a, b in zip(seconds[way], seconds["none"], strict=True))
        for way in WAYS[1:]
    }
    cost = {way: _call_seconds(way) for way in WAYS[1:]}
    median = statistics.median(seconds["none"])
    return {
        "chunk_tokens": chunk_tokens,
        "calls": calls,
        "cpu_seconds": {way: statistics.median(found) for way, found in seconds.items()},
        "ratio_quartiles": {way: statistics.quantiles(found) for way, found in ratios.items()},
        "call_seconds": cost,
        "counted_share": {way: calls * cost[way] / median for way in cost},
    }


def _transports() -> list[ThreadTransport]:
    world = ThreadWorld(2)
    return [ThreadTransport(world, rank) for rank in range(2)]


def _rank(chunk_tokens: int) -> Callable[[ThreadTransport], tuple[Sweeps, Any]]:
    config = small_config(TOKENS, chunk_tokens, "1", 1, 2)
    text = np.random.default_rng(0).integers(0, 256, TOKENS + 1, dtype=np.uint16)
    windows = Windows(ArraySplit([text]), TOKENS, 0, 16)

    def build(transport: ThreadTransport) -> tuple[Sweeps, Any]:
        model = TTTForCausalLM(config.architecture(), seed=0)
        layout = Layout("striped", TOKENS, chunk_tokens, 2)
        return Sweeps(model, layout, transport, keep=ActivationPolicy(1)), [[windows.window(0)]]

    return build


def _step(ranks: list[tuple[Sweeps, Any]], way: str, silent: _Silent) -> float:
    """CPU seconds of both ranks' sweeps."""
    for sweeps, _ in ranks:
        sweeps.model.zero_grad(set_to_none=True)
        sweeps.timeline.__dict__.pop("begin", None)
        if way == "none":
            sweeps.timeline.begin = silent  # type: ignore[method-assign]
        if way == "trace":
            sweeps.timeline.start_trace()

    def sweep(rank: tuple[Sweeps, Any]) -> None:
        rank[0].forward(rank[1])
        rank[0].backward()

    with ThreadPoolExecutor(len(ranks)) as pool:
        began = time.process_time()
        list(pool.map(sweep, ranks))
        took = time.process_time() - began
    for sweeps, _ in ranks:
        sweeps.timeline.take()
        if way == "trace":
            sweeps.timeline.end_trace()
    return took


def _call_seconds(way: str, times: int = 200_000) -> float:
    """One call, in the mixture of a layer: one wait and one send in ten."""
    from tttscale.observe.timeline import Timeline
    from tttscale.scan.schedule import ChunkTask, Phase
    from tttscale.scan.timeline import Activity, Run

    timeline, task = Timeline(torch.device("cpu")), ChunkTask(Phase.FORWARD, 0, 1, range(4))
    if way == "trace":
        timeline.start_trace()
    kinds = [Activity.PROJECT, Activity.WAIT, Activity.ADVANCE, Activity.SEND, Activity.READOUT]
    mixture = (kinds + [Activity.PROJECT, Activity.FINISH] * 3)[:10]
    began = time.process_time()
    for _ in range(times // len(mixture)):
        for activity in mixture:
            timeline.begin(activity, Run.FORWARD, task, 1, "")
    return (time.process_time() - began) / times


def main(words: list[str] | None = None) -> None:
    """Measure, print the table and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/timeline_cost"))
    parser.add_argument("--chunks", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--rounds", type=int, default=12)
    asked = parser.parse_args(words)
    data = [measure(chunk, asked.rounds) for chunk in asked.chunks]
    rows = [
        {
            "chunk tokens": str(found["chunk_tokens"]),
            "way": way,
            "CPU s": f"{found['cpu_seconds'][way]:.3f}",
            "beside none": ""
            if way == "none"
            else "{1:.4f} ({0:.4f} to {2:.4f})".format(*found["ratio_quartiles"][way]),
            "calls": "" if way == "none" else f"{found['calls']:,.0f}",
            "one call, us": "" if way == "none" else f"{1e6 * found['call_seconds'][way]:.2f}",
            "counted": "" if way == "none" else f"{100 * found['counted_share'][way]:.3f} %",
        }
        for found in data
        for way in WAYS
    ]
    text, note = report.table(rows), _NOTE.format(tokens=TOKENS, rounds=asked.rounds)
    report.write(
        asked.out, "The timeline's cost", [("Result", text), ("What was measured", note)], data
    )
    print(text)


if __name__ == "__main__":
    main()
