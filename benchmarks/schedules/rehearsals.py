"""The real schedule, sweeps, ports and in-process transport in virtual time, beside the simulator."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from benchmarks.schedules.explored import TOKENS, model_config
from benchmarks.schedules.published import published_costs
from tttscale.config import Config
from tttscale.plan.carries import Carries
from tttscale.plan.costs import Costs, Wire, assumed
from tttscale.plan.rehearse import rehearse
from tttscale.plan.simulate import simulate
from tttscale.scan.layout import Kind, Layout
from tttscale.scan.schedule import Schedule

SLOW = Wire(500e-6, 1e9)
"""A network of 8 Gbit/s."""


class Rehearsed(NamedTuple):
    """A run that is rehearsed."""

    costs: str
    ranks: int
    chunk_tokens: int
    layers: int = 24
    learner: str = "linear"
    layout: Kind = "striped"
    sequences: int = 1
    kept: float = 1
    ranks_per_host: int = 8
    preset: str = "1.3b"
    tokens: int = TOKENS


TARGETS = [
    Rehearsed(costs, ranks, chunk)
    for costs in ("predicted chains", "longer chains")
    for ranks, chunk in ((8, 16384), (16, 8192), (64, 4096))
]
"""One sequence of a million tokens."""
GRID = [
    Rehearsed("predicted chains", 1, 32768, 4),
    Rehearsed("predicted chains", 8, 16384, 4, "mlp"),
    Rehearsed("longer chains", 32, 8192, 4, "mlp"),
    Rehearsed("longer chains", 8, 32768, 4, layout="contiguous"),
    Rehearsed("predicted chains", 16, 65536, 4, layout="contiguous", kept=0),
    Rehearsed("longer chains", 16, 32768, 4, sequences=4),
    Rehearsed("predicted chains", 6, 16384, 4, sequences=3, kept=4),
    Rehearsed("predicted chains", 8, 16384, 4, kept=0),
    Rehearsed("longer chains", 8, 16384, 4, kept=3),
    Rehearsed("predicted chains", 16, 16384, 4, kept=1.5),
    Rehearsed("slow network", 8, 8192, 4, "mlp", ranks_per_host=2),
    Rehearsed("predicted chains", 12, 16384, 4, tokens=TOKENS + 5000),
    Rehearsed("longer chains", 16, 16384, 4, preset="1.3b-transformer"),
]
"""What else the two should agree on."""


def rehearsals(cases: list[Rehearsed]) -> Iterator[dict[str, Any]]:
    """What came of each."""
    for case in cases:
        config, costs = _config(case), _costs(case)
        carries = Carries(config)
        layout = Layout(case.layout, case.tokens, case.chunk_tokens, case.ranks, case.sequences)
        given = Schedule(layout, carries.parts), carries.bytes, costs
        options: dict[str, Any] = {"kept": case.kept, "ranks_per_host": case.ranks_per_host}
        found = rehearse(config.architecture(), *given, **options)
        simulated = simulate(*given, **options)
        # One rank with chunks of 32Ki, as efficient as it can be with one kept chunk.
        one = replace(layout, kind="striped", chunk_tokens=32768, ranks=1)
        alone = simulate(Schedule(one, carries.parts), carries.bytes, costs)
        yield {
            **case._asdict(),
            "seconds": found.seconds,
            "simulated_seconds": simulated.seconds,
            "possible_seconds": simulated.possible_seconds,
            "one_rank_seconds": alone.seconds,
            "busy": found.busy_fraction,
            **{
                name: sum(getattr(found, f"{name}_seconds")) / case.ranks / found.seconds
                for name in ("ramp", "starved", "exposed")
            },
        }


def _config(case: Rehearsed) -> Config:
    config = model_config(case.learner)
    backbone = case.preset.removeprefix("1.3b")
    fields = {"preset": f"ttt-{case.learner}-1.3b{backbone}", "num_hidden_layers": case.layers}
    return Config.model_validate(
        {**config.model_dump(include={"run", "data", "train"}), "model": fields}
    )


def _costs(case: Rehearsed) -> Costs:
    longer = case.costs == "longer chains"
    costs = published_costs(case.learner) if longer else assumed("h200", _config(case))
    costs = replace(costs, kinds=costs.kinds[: case.layers])
    return replace(costs, between_hosts=SLOW) if case.costs == "slow network" else costs
