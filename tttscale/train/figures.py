"""A step's figures from all ranks' times; `observe.metrics` says what each means."""

from typing import Any

import torch
from torch import Tensor

from tttscale.observe.timeline import Held
from tttscale.scan.sweep import Sweeps


def work_tokens(sweeps: Sweeps) -> int:
    """Count the tokens that this rank's chunks run through in a step, in all layers.

    A backward counts twice and a recomputation once, as they have as many matrix products.
    """
    plan, total = sweeps.plan(train=True), 0
    for task in plan.tasks:
        begin, end = sweeps.schedule.layout.bounds(task.chunk)
        total += (end - begin) * len(task.layers) * (3 if task in plan.kept else 4)
    return total


def step_figures(rows: Tensor, tokens: float) -> dict[str, Any]:
    """Combine the ranks' times.

    All ranks begin a step together, and it ends with the last of them: the others' wait for it is idle, too.
    So every part lies in the interval that it is compared with.

    Args:
        rows: by rank: seconds until it was done; the fields of `Held`; peak bytes; seconds of its sweeps;
            tokens that its chunks run through in them (`work_tokens`); more is ignored. fp64 [world, ...].
        tokens: tokens with a loss, of all ranks.
    """
    columns = rows[:, : 4 + len(Held._fields)].unbind(1)
    seconds, (peak, sweeps_seconds, work) = columns[0], columns[-3:]
    held = dict(zip(Held._fields, columns[1:-3], strict=True))
    step_seconds = float(seconds.max())
    late = step_seconds - seconds
    carries = held["ramp"] + held["starved"] + held["send"]
    exposed = (carries + held["reduce"] + held["gather"]).clamp(max=seconds)

    def share(part: Tensor) -> float:
        """Mean over the ranks; a GPU and its host have different clocks, so parts may exceed the whole."""
        return min(1.0, float(part.mean()) / step_seconds)

    return {
        "tokens_per_second": tokens / step_seconds,
        "step_seconds": step_seconds,
        "data_seconds": float(held["data"].max()),
        "bubble_fraction": share((carries + held["idle"]).clamp(max=seconds) + late),
        "ramp_fraction": share(held["ramp"] + held["idle"] + late),
        "starved_fraction": share(held["starved"]),
        "exposed_comm_seconds": float(exposed.mean()),
        **_slowest(sweeps_seconds - carries - held["data"], work),
        "peak_memory_bytes": int(peak.max()),
    }


def _slowest(compute: Tensor, work: Tensor) -> dict[str, Any]:
    """Name the rank that computes slowest for what it has to do, and its time over the others' median."""
    ranks = (work > 0).nonzero().flatten()
    rates = (compute / work)[ranks]
    if len(ranks) < 2:
        return {}
    slowest = int(rates.argmax())
    others = float(torch.cat([rates[:slowest], rates[slowest + 1 :]]).quantile(0.5))
    if not others > 0:
        return {}
    return {"slowest_rank": int(ranks[slowest]), "slowest_factor": float(rates[slowest]) / others}
