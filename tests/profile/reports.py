"""A whole report of a trace made by hand."""

from tests.traces import BYTES
from tttscale.observe.causes import diagnose
from tttscale.observe.overlap import analyse
from tttscale.profile.advice import Job, Setting, advise, whole_step
from tttscale.profile.fitted_costs import fit, kept_chunks
from tttscale.profile.report import Prediction, make_report


def job_of(trace, costs):
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
        kept_chunk_bytes=1 << 20,
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
    simulation = job.simulated(now, trace=True)
    step = whole_step(simulation, trace, {})
    prediction = Prediction(simulation, step, advise(job, now), costs.source)
    return make_report(trace, found, diagnose(trace, found), prediction, notes), step
