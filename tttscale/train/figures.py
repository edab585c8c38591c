"""A step's figures from all ranks' times; `observe.metrics` says what each means."""

from typing import Any

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
        rows: by rank: seconds until it was done; the fields of `Held`; peak bytes; tokens that its chunks
            run through in all; more is ignored. fp64 [world, ...].
        tokens: tokens with a loss, of all ranks.
    """
    columns = rows[:, : 3 + len(Held._fields)].unbind(1)
    seconds, peak, work = columns[0], columns[-2], columns[-1]
    held = dict(zip(Held._fields, columns[1:-2], strict=True))
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
        **_slowest(seconds - sum(held.values()), work),
        "peak_memory_bytes": int(peak.max()),
    }


def _slowest(compute: Tensor, work: Tensor) -> dict[str, Any]:
    """Name the rank that computes slowest for what it has to do, and how it compares with the median."""
    rates = (compute / work)[work > 0]
    if len(rates) < 2 or not float(rates.median()) > 0:
        return {}
    ranks = (work > 0).nonzero().flatten()
    slowest = int(rates.argmax())
    return {
        "slowest_rank": int(ranks[slowest]),
        "slowest_factor": float(rates[slowest] / rates.quantile(0.5)),
    }
