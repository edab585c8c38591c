"""`tttscale profile`: a few traced steps, and what they say."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tttscale.cluster.ranks import Ranks
from tttscale.comm.messages import message_bytes
from tttscale.config import Config
from tttscale.errors import ConfigError
from tttscale.files import replaced
from tttscale.observe.causes import diagnose
from tttscale.observe.guard import print_result
from tttscale.observe.overlap import Overlap, analyse
from tttscale.observe.perfetto import MAX_EVENTS, write_perfetto
from tttscale.observe.spans import Trace
from tttscale.profile.advice import Job, Setting, advise, whole_step
from tttscale.profile.fitted_costs import fit, kept_chunks
from tttscale.profile.markdown import report_markdown
from tttscale.profile.page import page_html
from tttscale.profile.report import Prediction, make_report
from tttscale.profile.torch_traces import trace_with_torch
from tttscale.profile.traced_run import TracedRun
from tttscale.scan.carry import CarryLayout
from tttscale.train.run_folder import run_folder

_NAMES = ("trace.json.gz", "report.html", "report.md", "report.json")
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
    """Also write torch.profiler's trace of one more step, of every rank."""
    max_events: int = MAX_EVENTS
    """Of the merged trace."""


def profile(config: Config, ranks: Ranks, options: Options) -> int:
    """Profile as one rank of the job.

    Returns:
        The exit code: 0.

    Raises:
        TTTScaleError: as in `train`; or the folder of the results cannot be written.
    """
    folder = options.out or run_folder(config) / "profile"
    if ranks.rank == 0:
        check_folder(folder)
        if ranks.world_size > 1:
            _say(ranks, f"waiting for all {ranks.world_size} ranks")
    run = TracedRun.build(config, ranks, options.steps + _OTHER_STEPS)
    for notice in run.notices:
        _say(ranks, notice)
    _say(ranks, "warming up")
    warm = run.warm_up()
    _say(ranks, f"tracing {options.steps} step{'s' * (options.steps > 1)}")
    trace = run.trace(options.steps)
    shorter = run.trace_shorter()
    if options.torch_profiler:
        _say(ranks, "one more step under torch.profiler")
        with _writing(folder):
            trace_with_torch(folder / "torch", run.mesh, run.sweeps.device, run.run_steps)
    if trace is not None:
        _say(ranks, "simulating")
        notes = [
            f"{options.steps} traced after {warm} untraced step{'s' * (warm > 1)}, from the run's first "
            "weights and tokens; no checkpoint or record of a run was read or changed."
        ]
        report, predicted = analysed(trace, shorter, run, notes)
        _write(folder, trace, report, predicted, options.max_events)
        print_result(_summary(report, folder, options.torch_profiler))
    run.mesh.close()
    return 0


def check_folder(folder: Path) -> None:
    """Find out before anything takes time whether results can be written.

    Raises:
        ConfigError: they cannot.
    """
    above = folder
    while not above.exists() and above.parent != above:
        above = above.parent
    problem = None
    if not above.is_dir():
        problem = f"{above} is not a folder"
    elif not os.access(above, os.W_OK | os.X_OK):
        problem = f"{above} cannot be written to"
    if problem:
        raise ConfigError(
            f"--out {folder}: {problem}. Name another folder with --out, or check its permissions."
        )


def analysed(
    trace: Trace, shorter: Trace | None, run: TracedRun, notes: list[str]
) -> tuple[dict[str, Any], Trace | None]:
    """Return the report, and the predicted step if there is one."""
    carry, parameter = run.sweeps.carry, next(run.model.parameters())
    sizes = {}
    for layer in range(len(carry.parts)):
        for part, carried in carry.at(layer, 0).items():
            sizes[part] = max(sizes.get(part, 0), message_bytes(carried))
    trace.facts["part_bytes"] = sizes
    found = analyse(trace)
    prediction = None
    if found.steps:
        pairs: list[tuple[Trace, Overlap]] = [(trace, found)]
        if shorter is not None:
            pairs.append((shorter, analyse(shorter)))
            notes.append(
                "One more step had chunks of half the length, to find costs that stay the same."
            )
        costs = fit(pairs, carry.names, sizes)
        layers, batch = run.model.carry_layers, run.sweeps.batch

        def carry_bytes(tokens: int):  # noqa: ANN202
            """Lengths of messages when chunks have so many tokens."""
            layout = CarryLayout(layers, batch, tokens, parameter.dtype)
            return lambda key: message_bytes(layout.of(key))

        layout = run.sweeps.schedule.layout
        size = len({rank.host for rank in trace.ranks})
        job = Job(
            layout.length_tokens,
            layout.sequences,
            run.sweeps.schedule.parts,
            carry_bytes,
            costs,
            ranks_per_host=max(1, len(trace.ranks) // size),
            alignment=run.config.alignment,
            kept_chunk_bytes=run.sweeps.keep.chunk_bytes,
        )
        kept = kept_chunks(trace)
        now = Setting(
            layout.chunk_tokens,
            layout.kind,
            layout.ranks,
            tuple(kept[rank] for rank in range(layout.ranks)),
        )
        simulation = job.simulated(now, trace=True)
        step = whole_step(simulation, trace, {})
        prediction = Prediction(simulation, step, advise(job, now), costs.source)
    report = make_report(trace, found, diagnose(trace, found), prediction, notes)
    return report, None if prediction is None else prediction.trace


def _write(
    folder: Path, trace: Trace, report: dict[str, Any], predicted: Trace | None, max_events: int
) -> None:
    """Write all results; files of an earlier profile are replaced when all new ones are whole."""
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        cut = write_perfetto(folder / _NAMES[0], trace, max_events=max_events)
        if cut:
            report["notes"].append(f"Of {_NAMES[0]}: {cut}.")
        texts = {
            "report.html": page_html(report, trace, predicted),
            "report.md": report_markdown(report, _NAMES),
            "report.json": json.dumps(report, indent=1, allow_nan=False) + "\n",
        }
        with ExitStack() as files:
            opened = {name: files.enter_context(replaced(folder / name)) for name in texts}
            for name, text in texts.items():
                opened[name].write(text.encode())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"--out {folder}: cannot write: {error}. Check space and permissions, or name another folder "
            "with --out."
        ) from error


def _summary(report: dict[str, Any], folder: Path, with_torch: bool) -> str:
    width = max(len(card["name"]) for card in report["headline"]) if report["headline"] else 0
    lines = [report["verdict"], ""]
    lines += [
        f"{card['name']:<{width}}  {card['value']:<10} {card['note']}".rstrip()
        for card in report["headline"]
    ]
    helpful = [change for change in report["advice"] if change["helps"]][:4]
    if helpful:
        lines += ["", "what would help (simulated):"]
        for change in helpful:
            note = f" ({change['note']})" if change["note"] else ""
            lines.append(f"  {change['key']}: {change['text']}{note}")
    lines += ["", f"{folder / 'report.html'}  the page; open it in a browser"]
    lines += [f"{folder / 'trace.json.gz'}  for ui.perfetto.dev or chrome://tracing"]
    lines += [f"{folder / 'report.md'}, report.json  the same in words and for programs"]
    if with_torch:
        lines += [f"{folder / 'torch'}/rank-N.json.gz  torch.profiler's own, one of each rank"]
    return "\n".join(lines)


def _say(ranks: Ranks, text: str) -> None:
    if ranks.rank == 0:
        print(text, file=sys.stderr, flush=True)
