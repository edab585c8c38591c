"""Estimates beside measurements: the time of a step's sweeps, on one and on two ranks of this machine.

    python -m benchmarks.trust_time [--rounds 3] [--out benchmarks/trust_time]

Ranks are threads with one thread of compute each. CPU time is compared, of the rank that has most to do: what
it waits for is no CPU time, and other programs on the machine change it less than the clock's time. What
costs are fitted from and what they are compared with is measured in turns, in the same rounds.
"""

import argparse
import os
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from tttscale.bench import report
from tttscale.bench.calibrate import Machine, RandomTokens, StepTimes, costs_of
from tttscale.bench.cost_fit import Samples, fit
from tttscale.bench.step_worker import small_config
from tttscale.cluster.ranks import discover
from tttscale.comm.threads import ThreadTransport, ThreadWorld
from tttscale.config import Config
from tttscale.plan.carries import Carries
from tttscale.plan.costs import Costs
from tttscale.plan.simulate import simulate
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Kind, Layout
from tttscale.scan.schedule import Schedule
from tttscale.scan.sweep import Sweeps
from tttscale.train import build

TOKENS = 8192
_NEAR = 0.05
LENGTHS = [2048, 1024, 512]
"""Chunks at which costs are measured; some settings lie between."""


class Setting(NamedTuple):
    """A step that is measured."""

    learner: str
    ranks: int
    chunk_tokens: int
    layout: Kind = "striped"
    sequences: int = 1
    kept: float = 1


SETTINGS = [
    Setting("linear", 1, 2048),
    Setting("linear", 1, 2048, kept=1.5),
    Setting("linear", 1, 2048, kept=2.5),
    Setting("linear", 1, 2048, kept=4),
    Setting("linear", 1, 512, kept=0),
    Setting("linear", 1, 768),
    Setting("linear", 1, 1024, kept=8),
    Setting("linear", 1, 1024, sequences=2),
    Setting("linear", 2, 1024),
    Setting("linear", 2, 2048, kept=2),
    Setting("linear", 2, 1024, "contiguous"),
    Setting("linear", 2, 512, sequences=2, kept=0),
    Setting("mlp", 1, 1024),
    Setting("mlp", 2, 1024),
    Setting("mlp", 2, 2048, "contiguous", kept=0),
]


def _config(learner: str) -> Config:
    small = small_config(TOKENS, LENGTHS[0], "1", 1, 1)
    model = {"ttt_layer_type": learner, "ttt_base_lr": 1.0 if learner == "linear" else 0.1}
    return small.model_copy(update={"model": small.model.model_copy(update=model)})


class _Learner:
    """A model, its costs so far, and what its settings took."""

    def __init__(self, learner: str) -> None:
        self.learner, self.config = learner, _config(learner)
        self.device = torch.device("cpu")
        self.machine = Machine(self.config, self._model(), self.device)
        self.samples = Samples()
        self.seconds: dict[Setting, list[list[float]]] = defaultdict(list)

    def _model(self) -> Any:
        return build.build_model(self.config, self.device)

    def round(self) -> None:
        """Measure everything once."""
        own = [setting for setting in SETTINGS if setting.learner == self.learner]
        for place, setting in enumerate(own):
            self.machine.sweep([LENGTHS[place % len(LENGTHS)]], self.samples)
            self.seconds[setting].append(self.measure(setting))

    def measure(self, setting: Setting) -> list[float]:
        """CPU seconds of every rank."""
        layout = _layout(setting)
        groups = [[RandomTokens(TOKENS, 256)] for _ in range(setting.sequences)]

        def rank(transport: ThreadTransport) -> float:
            """Run the step twice on one rank, and time the second."""
            torch.set_num_threads(1)
            sweeps = Sweeps(self._model(), layout, transport, keep=ActivationPolicy(setting.kept))
            for _ in range(2):  # the first time memory is new
                began = time.thread_time()
                sweeps.forward(groups)
                sweeps.backward()
            return time.thread_time() - began

        return ThreadWorld(setting.ranks).run(rank)

    def rows(self) -> list[dict[str, Any]]:
        """Estimated and measured seconds of every setting."""
        step = StepTimes(0.0, 0.0)
        found = fit(self.samples)
        costs = costs_of(self.config, found, self.samples, step, self.machine, LENGTHS)
        rows = []
        for setting, measured in self.seconds.items():
            by_rank = [fmean(rank) for rank in zip(*measured, strict=True)]
            estimated = _estimate(self.config, setting, costs)
            rows.append(
                {
                    **setting._asdict(),
                    "estimated": max(estimated),
                    "measured": max(by_rank),
                    "all": [max(one) for one in measured],
                }
            )
        return rows


def _layout(setting: Setting) -> Layout:
    sizes = TOKENS, setting.chunk_tokens, setting.ranks, setting.sequences
    return Layout(setting.layout, *sizes)


def _estimate(config: Config, setting: Setting, costs: Costs) -> list[float]:
    """Seconds of every rank's compute and sends."""
    carries = Carries(config)
    schedule = Schedule(_layout(setting), carries.parts)
    found = simulate(schedule, carries.bytes, costs, kept=setting.kept, trace=True)
    assert found.trace is not None
    sends = [
        sum(span.end - span.begin for span in rank.spans if span.activity == "send")
        for rank in found.trace.ranks
    ]
    return [busy + send for busy, send in zip(found.busy_seconds, sends, strict=True)]


def render(rows: list[dict[str, Any]]) -> str:
    """The table, and a line on it."""
    ratios = [row["estimated"] / row["measured"] for row in rows]
    near = sum(abs(ratio - 1) <= _NEAR for ratio in ratios)
    spread = fmean((max(row["all"]) - min(row["all"])) / 2 / row["measured"] for row in rows)
    line = (
        f"\n\n{near} of {len(rows)} estimates lie within {100 * _NEAR:.0f} % of the measurement; in the mean "
        f"they are {fmean(ratios):.3f} of it. Single measurements scatter by {100 * spread:.0f} % "
        "to either side, so on a crowded machine single ratios say little."
    )
    return line_table(rows) + line


def line_table(rows: list[dict[str, Any]]) -> str:
    """A line for each setting."""
    return report.table(
        [
            {
                "learner": row["learner"],
                "ranks": row["ranks"],
                "layout": row["layout"],
                "chunk": row["chunk_tokens"],
                "sequences": row["sequences"],
                "kept": f"{row['kept']:g}",
                "estimated, s": f"{row['estimated']:.3f}",
                "measured, s (least to most)": f"{row['measured']:.3f} "
                f"({min(row['all']):.3f} to {max(row['all']):.3f})",
                "estimated / measured": f"{row['estimated'] / row['measured']:.3f}",
            }
            for row in rows
        ]
    )


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/trust_time"))
    asked = parser.parse_args()
    config, device = _config("linear"), torch.device("cpu")
    ranks = discover({})
    build.prepare_host(config, ranks, device)
    mesh = build.connect(config, ranks, device)
    build.choose_products(mesh, device, None)
    loads = [os.getloadavg()[0]]
    learners = [_Learner(name) for name in ("linear", "mlp")]
    for _ in range(asked.rounds):
        for learner in learners:
            learner.round()
            loads.append(os.getloadavg()[0])
    rows = [row for learner in learners for row in learner.rows()]
    lengths = ", ".join(map(str, LENGTHS))
    where = (
        f"The quickstart's model and its like with TTT-MLP, {TOKENS:,} random tokens. Costs are fitted at "
        f"chunks of {lengths} tokens, as `tttscale bench step --calibrate` does, on one rank whose "
        "neighbours are imitated. Seconds of CPU time of the sweeps, of the rank with most to do; means of "
        f"{asked.rounds} rounds in turns. Load {min(loads):.0f} to {max(loads):.0f} on {os.cpu_count()} "
        "cores. Ranks are threads of one process: two of them need more CPU time for the same work than the "
        "one that costs were measured on, which the estimates do not know."
    )
    sections = [("Result", render(rows)), ("What was measured", where)]
    report.write(asked.out, "Estimated and measured step times", sections, rows)
    mesh.close()


if __name__ == "__main__":
    main()
