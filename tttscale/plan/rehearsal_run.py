"""`tttscale rehearse`: rehearse a configuration, and say how it compares with the simulator."""

from collections.abc import Callable
from pathlib import Path

from tttscale.config import Config
from tttscale.errors import ConfigError
from tttscale.observe.perfetto import write_perfetto
from tttscale.observe.spans import Trace
from tttscale.plan.carries import Carries
from tttscale.plan.costs import Costs
from tttscale.plan.rehearse import Rehearsal, rehearse
from tttscale.plan.simulate import Simulation, simulate
from tttscale.scan.layout import Layout
from tttscale.scan.schedule import Schedule
from tttscale.writable import check_file, writing

_MOST_TASKS = 200_000
"""Layers of chunks; a rehearsal of more would take longer than half an hour."""


def run(
    config: Config,
    costs: Costs,
    *,
    ranks: int | None = None,
    sequences: int = 1,
    ranks_per_host: int = 8,
    out: Path | None = None,
    show: Callable[[Layout, float, Trace], None] | None = None,
) -> str:
    """Rehearse one step of one replica.

    Args:
        config: of the run.
        costs: of every activity.
        ranks: that share a sequence, instead of `parallel.sequence`.
        sequences: that the replica has in a step, `parallel.batch` side by side counted as one.
        ranks_per_host: neighbouring ranks that share a host.
        out: file for a trace that Perfetto opens; None: none is written.
        show: called with layout, kept chunks and trace.

    Returns:
        What came of it, for people.

    Raises:
        ConfigError: there are so many chunks and layers that it would take hours; or the file cannot be
            written.
    """
    if out is not None:
        check_file(out, "--out")
    carries, parallel = Carries(config), config.parallel
    ranks = ranks or parallel.sequence
    kept = 1 if parallel.keep_chunks == "auto" else parallel.keep_chunks
    lengths = config.data.sequence_length, parallel.chunk_length
    layout = Layout(parallel.layout, *lengths, ranks, sequences)
    schedule = Schedule(layout, carries.parts)
    tasks = sequences * layout.chunks * schedule.layers
    if tasks > _MOST_TASKS:
        raise ConfigError(
            f"{sequences} x {layout.chunks} chunks of {schedule.layers} layers are {tasks:,} layers of "
            f"chunks to rehearse, at most {_MOST_TASKS:,} are possible. Set parallel.chunk_length higher, "
            "model.num_hidden_layers or data.sequence_length lower."
        )
    given = schedule, carries.bytes, costs
    model = config.architecture()
    found = rehearse(model, *given, kept=kept, ranks_per_host=ranks_per_host)
    simulated = simulate(*given, kept=kept, ranks_per_host=ranks_per_host)
    alone = Schedule(Layout(parallel.layout, *lengths, 1, sequences), carries.parts)
    one = simulate(alone, carries.bytes, costs, kept=kept)
    if out is not None:
        with writing(out, "--out"):
            write_perfetto(out, found.trace)
    if show is not None:
        show(layout, kept, found.trace)
    return _text(config, layout, costs, found, simulated, one, kept)


def _text(
    config: Config,
    layout: Layout,
    costs: Costs,
    found: Rehearsal,
    simulated: Simulation,
    one: Simulation,
    kept: float,
) -> str:
    ranks, seconds = layout.ranks, found.seconds
    auto = " (keep_chunks: auto; the planner says how many fit)"
    note = auto if config.parallel.keep_chunks == "auto" else ""
    tokens = layout.length_tokens * layout.sequences * config.parallel.batch
    means = {
        "busy": found.busy_seconds,
        "ramp": found.ramp_seconds,
        "starved": found.starved_seconds,
        "exposed": found.exposed_seconds,
    }
    shares = [f"{name} {100 * sum(v) / ranks / seconds:.2f} %" for name, v in means.items()]
    starved = max(range(ranks), key=lambda rank: found.starved_seconds[rank])
    lines = [
        f"{ranks} ranks, {layout.sequences} x {layout.length_tokens:,} tokens in {layout.chunks} "
        f"{layout.kind} chunks of {layout.chunk_tokens:,}; kept chunks: {kept:g}{note}",
        f"costs: {costs.source}",
        "real schedule, sweeps, ports and in-process transport; all times are virtual, of the sweeps alone",
        "",
        f"step        {seconds:.4f} s, {tokens / seconds:,.0f} tokens/s",
        f"efficiency  {100 * one.seconds / ranks / seconds:.1f} % (one rank: {one.seconds:.4f} s)",
        f"time        {', '.join(shares)}",
        f"possible    {simulated.possible_seconds:.4f} s; the serial chain {simulated.chain_seconds:.4f} s",
        f"simulated   {simulated.seconds:.4f} s, rehearsed / simulated = {seconds / simulated.seconds:.4f}",
    ]
    if found.starved_seconds[starved] > 0.001 * seconds:
        worst = 100 * found.starved_seconds[starved] / seconds
        lines.append(f"starved most: rank {starved}, {worst:.1f} % of its time")
    return "\n".join(lines)
