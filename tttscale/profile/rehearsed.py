"""The report of a rehearsal: the same pages as of a real run, in virtual time."""

from pathlib import Path

from tttscale.config import Config
from tttscale.observe.overlap import analyse
from tttscale.observe.perfetto import MAX_EVENTS
from tttscale.observe.spans import Trace
from tttscale.plan.costs import Costs
from tttscale.profile.advice import Setting
from tttscale.profile.job import job_of
from tttscale.profile.results import results_of, write_results
from tttscale.scan.layout import Layout


def write_rehearsal(
    folder: Path,
    config: Config,
    layout: Layout,
    costs: Costs,
    kept: float,
    ranks_per_host: int,
    trace: Trace,
) -> None:
    """Write merged trace, page, markdown and JSON.

    Args:
        folder: of the results.
        config: of the run.
        layout: that was rehearsed.
        costs: in virtual time.
        kept: chunks whose activations each rank keeps.
        ranks_per_host: neighbouring ranks that share a host.
        trace: of the rehearsal.

    Raises:
        ConfigError: the file system refused.
    """
    tokens = layout.length_tokens * layout.sequences * config.parallel.batch
    trace.facts |= {
        "run": config.run.name,
        "tokens_per_step": tokens,
        "mini_batch_tokens": config.alignment,
        "precision": config.train.precision,
    }
    gpu = "gpu" in costs.facts
    job = job_of(config, layout, costs, ranks_per_host=ranks_per_host, gpu=gpu)
    now = Setting(layout.chunk_tokens, layout.kind, layout.ranks, kept)
    notes = [
        "Rehearsed: the real schedule, sweeps and in-process transport in virtual time, the sweeps of one "
        f"step alone. Costs {costs.source}."
    ]
    write_results(folder, results_of(trace, analyse(trace), job, now, notes), MAX_EVENTS)
