"""`tttscale profile`: a few traced steps, and what they say."""

import sys
from dataclasses import dataclass
from pathlib import Path

from tttscale.cluster.ranks import Ranks
from tttscale.comm.messages import message_bytes
from tttscale.config import Config
from tttscale.observe.guard import print_result
from tttscale.observe.overlap import Overlap, analyse
from tttscale.observe.perfetto import MAX_EVENTS
from tttscale.observe.spans import Trace
from tttscale.profile.advice import Setting
from tttscale.profile.fitted_costs import fit, kept_chunks
from tttscale.profile.job import job_of
from tttscale.profile.results import (
    Results,
    check_results_folder,
    results_of,
    summary,
    write_results,
)
from tttscale.profile.torch_traces import trace_with_torch
from tttscale.profile.traced_run import TracedRun
from tttscale.train.run_folder import run_folder
from tttscale.train.run_plan import Room, RunPlan
from tttscale.writable import writing

_OTHER_STEPS = 5
"""At most: warm-up, chunks of half the length, torch's profiler."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    steps: int = 3
    """Traced steps."""
    out: Path | None = None
    """Folder of the results; None: `profile` in the run's folder."""
    torch_profiler: bool = False
    """Write torch.profiler's trace of one more step, of every rank."""
    max_events: int = MAX_EVENTS
    """Largest number of events in the merged trace."""


def profile(config: Config, ranks: Ranks, options: Options) -> int:
    """Profile as one rank of the job.

    Returns:
        The exit code: 0.

    Raises:
        TTTScaleError: as in `train`; or the folder of the results cannot be written.
    """
    folder = options.out or run_folder(config) / "profile"

    def say(text: str) -> None:
        """Say what is done meanwhile, on rank 0."""
        if ranks.rank == 0:
            print(text, file=sys.stderr, flush=True)

    if ranks.rank == 0:
        check_results_folder(folder)
    if ranks.world_size > 1:
        say(f"waiting for all {ranks.world_size} ranks at {ranks.master_addr}:{ranks.master_port}")
    run = TracedRun.build(config, ranks, options.steps + _OTHER_STEPS)
    plan = RunPlan(run.config, run.mesh, run.sweeps.device, ranks.local_world_size)
    for notice in [*run.notices, plan.line(), *filter(None, [plan.check()])]:
        say(notice)
    say("warming up")
    warm = run.warm_up()
    say(f"tracing {options.steps} step{'s' * (options.steps > 1)}")
    trace = run.trace(options.steps)
    shorter = run.trace_shorter()
    if options.torch_profiler:
        say("one more step under torch.profiler")
        with writing(folder):
            trace_with_torch(folder / "torch", run.mesh, run.sweeps.device, run.run_steps)
    if trace is not None:
        say("simulating")
        notes = [
            f"{options.steps} traced after {warm} untraced step{'s' * (warm > 1)}, from the run's first "
            "weights and tokens; no checkpoint or record of a run was read or changed."
        ]
        results = analysed(run, plan.room, trace, shorter, notes)
        write_results(folder, results, options.max_events)
        print_result(summary(results, folder))
        if options.torch_profiler:
            print_result(
                f"{folder / 'torch'}/rank-N.json.gz  torch.profiler's own, one of each rank"
            )
    run.mesh.close()
    return 0


def analysed(
    run: TracedRun, room: Room, trace: Trace, shorter: Trace | None, notes: list[str]
) -> Results:
    """Analyse the trace, and simulate the run and its neighbours with costs that are fitted to it.

    Args:
        run: this rank's share.
        room: memory of a rank.
        trace: of all ranks.
        shorter: of one step with chunks of half the length; None if there was none.
        notes: how the trace came about.
    """
    carry = run.sweeps.carry
    sizes: dict[str, int] = {}
    for layer in range(len(carry.parts)):
        for part, carried in carry.at(layer, 0).items():
            sizes[part] = max(sizes.get(part, 0), message_bytes(carried))
    trace.facts["part_bytes"] = sizes
    found = analyse(trace)
    if not found.steps:
        return results_of(trace, found, None, None, notes)
    pairs: list[tuple[Trace, Overlap]] = [(trace, found)]
    if shorter is not None:
        pairs.append((shorter, analyse(shorter)))
        notes = [
            *notes,
            "One more step had chunks of half the length, to find what does not grow with them.",
        ]
    layout, kept, device = run.sweeps.schedule.layout, kept_chunks(trace), run.sweeps.device
    job = job_of(
        run.config,
        layout,
        fit(pairs, carry.names, sizes),
        replicas=run.mesh.replicas,
        ranks_per_host=max(1, len(trace.ranks) // len({rank.host for rank in trace.ranks})),
        gpu=device.type == "cuda",
        capacity_bytes=room.taken + room.free,
    )
    by_rank = tuple(kept[rank] for rank in range(layout.ranks))
    now = Setting(layout.chunk_tokens, layout.kind, layout.ranks, by_rank)
    return results_of(trace, found, job, now, notes)
