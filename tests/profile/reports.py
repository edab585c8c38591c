"""A whole report of a trace made by hand."""

from tests.traces import BYTES
from tttscale.observe.overlap import analyse
from tttscale.profile.advice import Job, Setting
from tttscale.profile.fitted_costs import fit, kept_chunks
from tttscale.profile.results import results_of


def memory_of(setting):
    """A chunk of 64 tokens takes a mebibyte, kept or not."""
    return (100 << 20) + (1 + setting.most_kept) * setting.chunk_tokens * (1 << 14)


def job_of(trace, costs, capacity_bytes=None):
    """What a trace made by `make_trace` ran."""
    facts = trace.facts
    return Job(
        facts["sequence_tokens"],
        facts["sequences"],
        tuple(map(tuple, facts["parts"])),
        lambda tokens: lambda key: BYTES[key.part],
        costs,
        ranks_per_host=8,
        alignment=16,
        memory=memory_of,
        capacity_bytes=capacity_bytes,
    )


def setting_of(trace):
    """As it ran."""
    facts, kept = trace.facts, kept_chunks(trace)
    ranks = facts["sequence_ranks"]
    kept = tuple(kept[rank] for rank in range(ranks))
    return Setting(facts["chunk_tokens"], facts["layout"], ranks, kept)


def report_of(trace, notes=()):
    """The report, and the predicted step."""
    found = analyse(trace)
    costs = fit([(trace, found)], ("ttt-linear",) * trace.facts["layers"], BYTES)
    job, now = job_of(trace, costs), setting_of(trace)
    results = results_of(trace, found, job, now, notes)
    return results.report, results.predicted
