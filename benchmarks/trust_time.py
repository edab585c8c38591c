"""Estimates beside measurements: the time of a step's sweeps, on one and on two ranks of this machine.

    python -m benchmarks.trust_time [--rounds 3] [--out benchmarks/trust_time]

Every rank is a process with one thread of compute. CPU time is compared, of the rank that has most to do:
what it waits for is no CPU time, and other programs on the machine change it less than the clock's time. Two
ranks slow each other, so their costs are measured on one rank beside another that computes, as
`tttscale bench step --calibrate --at-once 2` does. Costs and steps are measured in turns, in the same rounds.
"""

import argparse
import itertools
import json
import os
import socket
import subprocess
from collections import defaultdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.trust_settings import (
    LENGTHS,
    SETTINGS,
    TOKENS,
    Setting,
    config_of,
    sweeps_seconds,
)
from tttscale.bench import report
from tttscale.bench.calibrate import Machine, StepTimes, costs_of
from tttscale.bench.companions import Companions
from tttscale.bench.cost_fit import Samples, fit
from tttscale.cluster.ranks import discover
from tttscale.config import Config
from tttscale.plan.carries import Carries
from tttscale.plan.costs import Costs
from tttscale.plan.simulate import simulate
from tttscale.scan.schedule import Schedule
from tttscale.train import build

_NEAR = 0.05


class _Pair:
    """Two ranks that run a setting when asked."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        self._ranks = [self._start(common, str(rank)) for rank in range(2)]

    @staticmethod
    def _start(common: dict[str, str], rank: str) -> "subprocess.Popen[str]":
        place = {"RANK": rank, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        return report.start_worker(
            "benchmarks.time_worker", env={**common, **place}, stdin=subprocess.PIPE
        )

    def measure(self, setting: Setting) -> list[float]:
        """CPU seconds of every rank."""
        for rank in self._ranks:
            assert rank.stdin is not None
            print(json.dumps(setting._asdict()), file=rank.stdin, flush=True)
        return [fmean(self._row(rank)) for rank in self._ranks]

    @staticmethod
    def _row(rank: "subprocess.Popen[str]") -> list[float]:
        assert rank.stdout is not None
        for line in rank.stdout:
            if line.startswith("["):
                return json.loads(line)
        raise RuntimeError(f"a rank ended with {rank.wait()}")

    def close(self) -> None:
        """Let both end."""
        for rank in self._ranks:
            rank.communicate()


class _Learner:
    """A model, its costs so far, and what its settings took."""

    def __init__(self, learner: str, pair: _Pair) -> None:
        self.learner, self.config, self.pair = learner, config_of(learner, 1), pair
        device = torch.device("cpu")
        self.model = build.build_model(self.config, device)
        self.machine = Machine(self.config, self.model, device)
        self.samples = {1: Samples(), 2: Samples()}
        """Ranks that compute at once -> costs."""
        self._lengths = {ranks: itertools.cycle(LENGTHS) for ranks in self.samples}
        self.seconds: dict[Setting, list[list[float]]] = defaultdict(list)

    def round(self, companions: Companions) -> None:
        """Measure everything once."""
        own = [setting for setting in SETTINGS if setting.learner == self.learner]
        for setting in own:
            tokens = [next(self._lengths[setting.ranks])]
            if setting.ranks == 1:
                self.machine.sweep(tokens, self.samples[1])
                alone = sweeps_seconds(self.model, setting, None)
                self.seconds[setting].append([fmean(alone)])
            else:
                companions.resume()
                self.machine.sweep(tokens, self.samples[2])
                companions.pause()
                self.seconds[setting].append(self.pair.measure(setting))

    def rows(self) -> list[dict[str, Any]]:
        """Estimated and measured seconds of every setting."""
        costs = {ranks: self._costs(ranks) for ranks in self.samples}
        rows = []
        for setting, measured in self.seconds.items():
            by_rank = [fmean(rank) for rank in zip(*measured, strict=True)]
            estimated = _estimate(self.config, setting, costs[setting.ranks])
            rows.append(
                {
                    **setting._asdict(),
                    "estimated": max(estimated),
                    "measured": max(by_rank),
                    "all": [max(one) for one in measured],
                }
            )
        return rows

    def _costs(self, ranks: int) -> Costs:
        samples, step = self.samples[ranks], StepTimes(0.0, 0.0)
        return costs_of(self.config, fit(samples), samples, step, self.machine, LENGTHS, ranks)


def _estimate(config: Config, setting: Setting, costs: Costs) -> list[float]:
    """Seconds of every rank's compute and sends."""
    carries = Carries(config)
    schedule = Schedule(setting.cut(), carries.parts)
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
    config, device = config_of("linear", 1), torch.device("cpu")
    ranks = discover({})
    build.prepare_host(config, ranks, device)
    mesh = build.connect(config, ranks, device)
    build.choose_products(mesh, device, None)
    loads = [os.getloadavg()[0]]
    pair = _Pair()
    learners = [_Learner(name, pair) for name in ("linear", "mlp")]
    with Companions(config, LENGTHS[0], 1) as companions:
        companions.pause()
        for _ in range(asked.rounds):
            for learner in learners:
                learner.round(companions)
                loads.append(os.getloadavg()[0])
    pair.close()
    rows = [row for learner in learners for row in learner.rows()]
    lengths = ", ".join(map(str, LENGTHS))
    where = (
        f"The quickstart's model and its like with TTT-MLP, {TOKENS:,} random tokens. Costs are fitted at "
        f"chunks of {lengths} tokens, as `tttscale bench step --calibrate` does, on one rank whose "
        "neighbours are imitated; for two ranks with another process that computes meanwhile, as with "
        "`--at-once 2`. Seconds of CPU time of the sweeps, of the rank with most to do; means of "
        f"{asked.rounds} rounds in turns, of two steps each. Load {min(loads):.0f} to {max(loads):.0f} on "
        f"{os.cpu_count()} cores. Ranks are processes that exchange through gloo."
    )
    sections = [("Result", render(rows)), ("What was measured", where)]
    report.write(asked.out, "Estimated and measured step times", sections, rows)
    mesh.close()


if __name__ == "__main__":
    main()
