"""`tttscale plan`: plan, and say or draw what came of it."""

import json
from pathlib import Path

from tttscale.config import Config
from tttscale.observe.plan_plot import draw_times
from tttscale.plan.planner import plan, times_by_ranks
from tttscale.plan.text import text_of
from tttscale.writable import check_file, writing

_PER_NODE = 8
"""GPUs of a host, if they are not told."""


def run(
    config: Config,
    *,
    nodes: int | None,
    per_node: int | None,
    gpu: str,
    costs: Path | None,
    as_json: bool = False,
    plot: Path | None = None,
) -> str:
    """Plan a run.

    Args:
        config: of the run.
        nodes: hosts.
        per_node: GPUs of each. If both are None: as many as one replica takes.
        gpu: their kind.
        costs: a file of measured costs.
        as_json: give JSON in place of text.
        plot: draw the time of a sequence against ranks and context here, as PNG.

    Returns:
        What to print.

    Raises:
        ConfigError: the run cannot be split so, the costs are unknown, or the plot cannot be written.
        MixerError: a layer cannot be made.
    """
    if plot is not None:
        check_file(plot, "--plot")
    found = plan(config, *_hosts(config, nodes, per_node), gpu, costs)
    if plot is not None:
        name = config.run.name
        times = times_by_ranks(found.model)
        with writing(plot, "--plot"):
            draw_times(plot, f"{name} on {found.target.gpu}", times)
    if as_json:
        return json.dumps(found.json(), indent=1)
    drawn = f"\nPlot: {plot}" if plot is not None else ""
    return text_of(found) + drawn


def _hosts(config: Config, nodes: int | None, per_node: int | None) -> tuple[int, int]:
    """Return hosts and GPUs of each; if neither is given, those of one replica."""
    ranks = config.parallel.sequence
    if nodes is None and per_node is None:
        return (ranks // _PER_NODE, _PER_NODE) if ranks % _PER_NODE == 0 else (1, ranks)
    return nodes or 1, per_node or _PER_NODE
