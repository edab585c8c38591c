"""The files of a profile: merged trace, report as page, markdown and JSON."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tttscale.files import replaced
from tttscale.observe.causes import diagnose
from tttscale.observe.overlap import Overlap
from tttscale.observe.perfetto import dump_perfetto
from tttscale.observe.spans import Trace
from tttscale.profile.advice import Job, Setting, advise, whole_step
from tttscale.profile.markdown import report_markdown
from tttscale.profile.page import page_html
from tttscale.profile.report import Prediction, make_report
from tttscale.writable import check_folder, writing

_TRACE = "trace.json.gz"
_NAMES = (_TRACE, "report.html", "report.md", "report.json")
_MOST_CHANGES = 4
"""Changes that the console names."""


@dataclass(frozen=True)
class Results:
    """What is written."""

    report: dict[str, Any]
    trace: Trace
    predicted: Trace | None


def results_of(
    trace: Trace, found: Overlap, job: Job | None, now: Setting | None, notes: Sequence[str]
) -> Results:
    """Analyse a trace, wherever it comes from.

    Args:
        trace: of all ranks.
        found: its analysis.
        job: what to simulate; None: nothing.
        now: as the job ran.
        notes: how the trace came about.
    """
    prediction = None
    if job is not None and now is not None and found.steps:
        simulation = job.simulated(now, trace=True)
        step = whole_step(simulation, trace, {})
        memory = job.peak_bytes(now)
        prediction = Prediction(simulation, step, advise(job, now), job.costs.source, memory)
    report = make_report(trace, found, diagnose(trace, found), prediction, notes)
    return Results(report, trace, None if prediction is None else prediction.trace)


def write_results(folder: Path, results: Results, max_events: int) -> None:
    """Write all files; those of an earlier profile are replaced when all new ones are whole.

    Raises:
        ConfigError: a name is taken by something else than a file, or the file system refused.
    """
    check_results_folder(folder)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        report = results.report
        with ExitStack() as files:
            opened = {name: files.enter_context(replaced(folder / name)) for name in _NAMES}
            cut = dump_perfetto(opened[_TRACE], results.trace, True, max_events=max_events)
            if cut:
                report = {**report, "notes": [*report["notes"], f"Of {_TRACE}: {cut}."]}
            texts = {
                "report.html": page_html(report, results.trace, results.predicted),
                "report.md": report_markdown(report, _NAMES),
                "report.json": json.dumps(report, indent=1, allow_nan=False) + "\n",
            }
            for name, text in texts.items():
                opened[name].write(text.encode())


def check_results_folder(folder: Path, option: str = "--out") -> None:
    """Find out before anything takes time, or is replaced, whether all results can be written.

    Args:
        folder: of the results.
        option: that has named it.

    Raises:
        ConfigError: they cannot.
    """
    check_folder(folder, option, _NAMES)


def summary(results: Results, folder: Path) -> str:
    """Say on the console what was found and where the files are."""
    report = results.report
    width = max((len(card["name"]) for card in report["headline"]), default=0)
    lines = [report["verdict"], ""]
    lines += [
        f"{card['name']:<{width}}  {card['value']:<10} {card['note']}".rstrip()
        for card in report["headline"]
    ]
    lines += ["", *report["cautions"]] if report["cautions"] else []
    helpful = [change for change in report["advice"] if change["helps"]][:_MOST_CHANGES]
    if helpful:
        lines += ["", "what would help (simulated):"]
    for change in helpful:
        note = f" ({change['note']})" if change["note"] else ""
        lines.append(f"  {change['key']}: {change['text']}{note}")
    return "\n".join(
        [
            *lines,
            "",
            f"{folder / 'report.html'}  the page; open it in a browser",
            f"{folder / _TRACE}  for ui.perfetto.dev or chrome://tracing",
            f"{folder / 'report.md'}, report.json  the same in words and for programs",
        ]
    )
