"""The report of `tests.campaigns.faults`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.campaigns.fault_episodes import (
    AFTER_DEADLINE_SECONDS,
    BY_HAND,
    CRASH_SECONDS,
    HANG_SECONDS,
    LAUNCHERS,
    SHORT_HANG_SECONDS,
)
from tests.campaigns.fault_grades import Result
from tests.campaigns.fault_healthy import Healthy
from tests.campaigns.fault_hook import PLACES
from tttscale.bench import report

HOW = f"""\
An episode starts a real job and makes one fault in it, at one place of a run. It is right if

- the fault was made (*fired*);
- all processes were gone within {CRASH_SECONDS:.0f} s; after a hang, within the deadline and
  {AFTER_DEADLINE_SECONDS:.0f} s. The key `train.hang_seconds` is {HANG_SECONDS:g}, which is the deadline in
  steps; in the first step and outside of steps the deadline is ten times the key, which is
  {SHORT_HANG_SECONDS:g} there;
- every rank printed the one line `FAILED rank=...`, all the same one, with the right rank, phase, step and a
  cause that fits. A rank whose supervisor was killed prints none; of it, phase and step are those that were
  heard last and not graded. If a launcher is killed any rank may be named, but all name the same.
  What ranks print goes through mpirun: if that is killed no one reads it, and if a process that it started
  is killed it kills all others within a third of a second and names the rank itself, which is graded then
  in place of the line;
- every process ended with the exit code of the table; launchers have codes of their own, which must not be 0;
- no process was left, found by its session and by a variable of its environment;
- `failure.json` names the same rank, cause and code, and the stacks of a hung rank have the function in them
  that hangs. Before the ranks have met there is no folder yet to write to: then they are on the terminal;
- the same command then ended with 0 (a run that was over when the fault came is refused as finished), left
  no partial or torn file, and step, loss, gradient norm, learning
  rate and tokens of all steps and the bytes of the final weights are those of a run that was not disturbed.
  All killed ranks and every second of the others are resumed, under torchrun, deepspeed and mpirun two
  episodes each, of the loop all, by itself.

`none`: ranks are started by hand, from a process that has imported everything. `bash`: a loop that starts
all ranks again if one has failed. The faults are made by code of the tests, which patches functions of the
package in the ranks' processes; *stop* is SIGSTOP, *loop* computes for ever, *lock* holds Python's lock in C,
*cut link* drops all packets between two neighbours in a network of their own."""


def write(
    out: Path,
    results: Sequence[Result],
    alarms: Healthy | None,
    absent: dict[str, str],
    patience: float,
    minutes: float,
) -> None:
    """Write OUT.md and OUT.json.

    Args:
        out: report path without suffix.
        results: of all episodes.
        alarms: of the healthy steps.
        absent: what was left out, and why.
        patience: by which factor everything might take longer.
        minutes: that it took.
    """
    right = sum(result.passed for result in results)
    said = [
        f"{right} of {len(results)} episodes right, in {minutes:.1f} minutes"
        + ("." if patience == 1 else f"; everything might take {patience:g} times as long."),
        "",
        *(f"Left out: {name}: {why}.\n" for name, why in absent.items()),
        "Right of all, and the worst seconds from the fault until no process was left:",
        "",
        report.table(_places(results)),
        "",
        report.table(_faults(results)),
        "",
        report.table(_ranks(results)),
        "",
        _lost(results),
    ]
    sections = [("Result", "\n".join(said))]
    if wrong := [result for result in results if not result.passed]:
        lines = (f"- {r.episode.name}: {_wrong(r)}" for r in wrong)
        sections.append(("Wrong", "\n".join(lines)))
    if alarms is not None:
        sections.append(("False alarms", f"{alarms.line()}.\n\n{_DELAYS}"))
    sections.append(("How", HOW))
    data = {
        "episodes": [_row(result) for result in results],
        "healthy": None if alarms is None else vars(alarms),
        "patience": patience,
        "minutes": round(minutes, 1),
    }
    report.write(out, "Faults of ranks", sections, data)


_DELAYS = (
    "The first step is made ten times as long as it is by itself; one step of one rank takes nearly the "
    "deadline longer; in one step ranks hand on their first carry so late that the last one waits for longer "
    "than the deadline; and once rank 0's records keep all others waiting for twice the deadline."
)


def _places(results: Sequence[Result]) -> list[dict[str, Any]]:
    launchers = [name for name in LAUNCHERS if any(r.episode.launcher == name for r in results)]
    rows = []
    for at in [*PLACES, "all"]:
        mine = [r for r in results if at in (r.episode.at, "all")]
        if mine:
            cells = {n: _cell([r for r in mine if r.episode.launcher == n]) for n in launchers}
            rows.append({"place": at, **cells})
    return rows


def _cell(results: Sequence[Result]) -> str:
    if not results:
        return ""
    right = sum(result.passed for result in results)
    return f"{right}/{len(results)} ({max(r.seconds for r in results):.1f} s)"


def _faults(results: Sequence[Result]) -> list[dict[str, Any]]:
    rows = []
    for fault in dict.fromkeys(result.episode.fault for result in results):
        mine = [result for result in results if result.episode.fault == fault]
        worst = max(mine, key=lambda r: r.seconds / r.episode.allowed_seconds)
        rows.append(
            {
                "fault": fault,
                "right": _cell(mine),
                "nearest to its limit": f"{worst.seconds:.1f} of {worst.episode.allowed_seconds:.1f} s",
                "exit code": mine[0].episode.code,
            }
        )
    return rows


def _ranks(results: Sequence[Result]) -> list[dict[str, Any]]:
    sizes = sorted({result.episode.ranks for result in results})
    return [
        {"ranks": n, "right": _cell([r for r in results if r.episode.ranks == n])} for n in sizes
    ]


def _lost(results: Sequence[Result]) -> str:
    lost = [result.lost for result in results if result.lost is not None]
    if not lost:
        return "Nothing was resumed."
    return (
        f"Of {len(lost)} runs that were resumed, with a checkpoint every 2 steps: {max(lost)} steps at most "
        f"were done again, {sum(lost) / len(lost):.1f} on average."
    )


def _wrong(result: Result) -> str:
    return "; ".join(f"*{grade}*: {what}" for grade, what in result.wrong.items())


def _row(result: Result) -> dict[str, Any]:
    episode = result.episode
    return {
        "fault": episode.fault,
        "place": episode.at,
        "ranks": episode.ranks,
        "victims": list(episode.victims),
        "launcher": "by hand" if episode.launcher == BY_HAND else episode.launcher,
        "seconds": round(result.seconds, 2),
        "allowed_seconds": episode.allowed_seconds,
        "steps_lost": result.lost,
        "wrong": result.wrong,
    }
