"""Grades an episode of `tests.campaigns.faults`: what its processes said and left, and how it resumed."""

import json
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.campaigns.fault_episodes import BY_HAND, HANGS, SUPERVISOR, Episode
from tests.campaigns.fault_jobs import Ended
from tests.campaigns.killed_runs import outcome
from tttscale import codes
from tttscale.errors import DataError
from tttscale.observe import read_metrics

GRADES = ("fired", "seconds", "culprit", "code", "leftovers", "records", "same")
_FAILED = re.compile(r"^FAILED rank=(\d+) host=(\S+) phase=(.+?) step=(\d+) cause=(.*)$", re.M)
_RESUMED = re.compile(r"resumes after step (\d+)")
_ATTEMPT = re.compile(r"^attempt 1 ended with (\d+) at (\S+)$", re.M)
"""What `fault_jobs.LOOP` says."""
_MPIRUN = re.compile(r"process rank (\d+)[^.]*?exited on\s+signal 9")
_NO_FOLDER_YET = ("imports", "start-up", "meeting", "connecting")
"""Places before the ranks have agreed on the run's folder: nothing can be written there."""


@dataclass
class Result:
    """What became of an episode."""

    episode: Episode
    seconds: float = 0.0
    """From the fault until no process was left."""
    lost: int | None = None
    """Steps that had been done and were done again."""
    wrong: dict[str, str] = field(default_factory=dict)
    """Grade -> what was wrong."""
    said: str = ""
    """All that the processes have said, if something was."""

    @property
    def passed(self) -> bool:
        """Whether all grades are right."""
        return not self.wrong


def grade_end(
    result: Result, ended: Ended, notes: dict[int, dict[str, Any]], run: Path, patience: float
) -> None:
    """Grade how the job has ended.

    Args:
        result: where faults are noted.
        ended: the end.
        notes: what was made, by rank.
        run: the run's folder.
        patience: by which factor it may have taken longer.
    """
    episode, wrong = result.episode, result.wrong
    if missing := set(_firing(episode)) - set(notes):
        wrong["fired"] = f"not by rank {', '.join(map(str, missing))}"
        return
    result.seconds = _seconds(ended, notes)
    if ended.orphans:
        wrong["leftovers"] = f"processes: {ended.orphans}"
    if ended.orphans or result.seconds > episode.allowed_seconds * patience:
        wrong["seconds"] = f"{result.seconds:.1f} of {episode.allowed_seconds * patience:.1f}"
    if found := _culprit(episode, ended.texts):
        wrong["culprit"] = found
    if found := _codes(episode, ended):
        wrong["code"] = found
    if found := _records(episode, ended.texts, run):
        wrong["records"] = found


def _seconds(ended: Ended, notes: dict[int, dict[str, Any]]) -> float:
    """From the first fault until no process was left; of a loop, its first start."""
    if loop := _ATTEMPT.search(ended.texts[0]):
        return float(loop[2]) - min(note["time"] for note in notes.values())
    return ended.at - min(note["monotonic"] for note in notes.values())


def _firing(episode: Episode) -> tuple[int, ...]:
    return episode.victims[:1] if episode.fault == "cut link" else episode.victims


def _culprit(episode: Episode, texts: Sequence[str]) -> str:
    """What is wrong with the lines that name the culprit."""
    lines = [match for text in texts for match in _FAILED.finditer(text)]
    if not lines and _only_mpirun_speaks(episode):
        return _mpiruns_word(episode, texts)
    if not lines:
        return "no line"
    if len({line[0] for line in lines}) > 1:
        return "ranks differ: " + " / ".join(sorted({line[0] for line in lines}))
    if len(lines) != episode.speakers:
        return f"{len(lines)} lines, not {episode.speakers}"
    if episode.launcher == BY_HAND:
        silent = [r for r, text in enumerate(texts) if len(_FAILED.findall(text)) != 1]
        if silent != (list(episode.victims) if episode.fault in SUPERVISOR else []):
            return f"rank {silent} printed none or several"
    rank, host, phase, step, cause = lines[0].groups()
    faults = []
    if int(rank) not in episode.culprits:
        faults.append(f"rank not {episode.culprits}")
    if host != socket.gethostname():
        faults.append("host")
    if episode.phases and phase not in episode.phases:
        faults.append(f"phase not {' or '.join(episode.phases)}")
    if not episode.step[0] <= int(step) <= episode.step[1]:
        faults.append(f"step not {episode.step}")
    if not re.search(episode.cause, cause):
        faults.append(f"cause not {episode.cause!r}")
    return f"{', '.join(faults)}: {lines[0][0]}" if faults else ""


def _only_mpirun_speaks(episode: Episode) -> bool:
    """Whether ranks cannot: their words go through mpirun, which kills them 0.25 s after one of its own."""
    return episode.launcher == "mpirun" and episode.fault in (*SUPERVISOR, "kill launcher")


def _mpiruns_word(episode: Episode, texts: Sequence[str]) -> str:
    """What is wrong with what mpirun says itself; nothing if it was killed."""
    named = [int(rank) for text in texts for rank in _MPIRUN.findall(text)]
    if episode.fault == "kill launcher" or set(named) & set(episode.victims):
        return ""
    return f"mpirun names ranks {named}"


def _codes(episode: Episode, ended: Ended) -> str:
    """What is wrong with the exit codes; most launchers have their own, and must not say that all is well."""
    found = ended.codes
    if episode.launcher == BY_HAND:
        gone = episode.victims if episode.fault in SUPERVISOR else ()
        expected = [-9 if rank in gone else episode.code for rank in range(episode.ranks)]
        return "" if found == expected else f"{found}, not {expected}"
    if episode.fault == "kill launcher":
        return "" if found[0] == -9 else f"{found[0]}, not -9"
    if loop := _ATTEMPT.search(ended.texts[0]):
        expected = {episode.code} | ({137} if episode.fault in SUPERVISOR else set())
        return "" if int(loop[1]) in expected else f"{loop[1]}, not {episode.code}"
    return "the launcher says that all is well" if found[0] == 0 else ""


def _records(episode: Episode, texts: Sequence[str], run: Path) -> str:
    """What is wrong with failure.json and the stacks."""
    faults = []
    if function := HANGS.get(episode.fault):
        stacks = run / f"stacks-rank-{episode.victims[0]}.txt"
        with_folder = episode.at not in _NO_FOLDER_YET
        found = stacks.read_text() if stacks.exists() else ""
        if function not in (found if with_folder else "\n".join(texts)):
            faults.append(f"the stacks of the hung rank lack {function}")
    silent = _only_mpirun_speaks(episode) and episode.fault in SUPERVISOR
    if episode.at in _NO_FOLDER_YET or silent:
        return "; ".join(faults)
    path = run / "failure.json"
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return "; ".join([*faults, f"failure.json: {error}"])
    if record["rank"] not in episode.culprits:
        faults.append(f"failure.json names rank {record['rank']}")
    if record["exit_code"] != episode.code:
        faults.append(f"failure.json: code {record['exit_code']}, not {episode.code}")
    if not re.search(episode.cause, record["cause"]):
        faults.append(f"failure.json: cause {record['cause']!r}")
    return "; ".join(faults)


def grade_again(result: Result, ended: Ended, folder: Path, name: str) -> None:
    """Grade the run that the same command has resumed.

    Args:
        result: where faults are noted.
        ended: its end.
        folder: of the campaign.
        name: of the run.
    """
    episode, wrong = result.episode, result.wrong
    is_over = set(ended.codes) == {codes.USAGE.number} and "a run that is finished" in "".join(
        ended.texts
    )
    if ended.orphans or (any(ended.codes) and not (is_over and episode.at == "closing")):
        wrong["same"] = f"started again, it ended with {ended.codes}"
        return
    if found := leftovers(folder / "runs" / name, is_over):
        wrong["leftovers"] = f"files: {found}"
    if found := differs(folder, name, f"truth-{episode.ranks}"):
        wrong["same"] = found
    resumed = [int(step) for text in ended.texts for step in _RESUMED.findall(text)]
    done = max(0, episode.made_in - (episode.place.phase == "step"))
    result.lost = done - (resumed[0] if resumed else 0)


def differs(folder: Path, name: str, truth: str) -> str:
    """What a run has other than the undisturbed one; empty if nothing."""
    try:
        expected, found = outcome(folder, truth), outcome(folder, name)
    except (OSError, KeyError, ValueError) as error:
        return f"no outcome: {error}"
    if found[0] != expected[0]:
        return "other metrics"
    return "other weights" if found[1] != expected[1] else ""


def leftovers(run: Path, refused: bool = False) -> list[str]:
    """What a whole run does not have: partial and torn files, and the failure of the start before.

    Args:
        run: its folder.
        refused: the run was over already, so that nothing was changed by the last start.
    """
    found = [
        str(p.relative_to(run)) for pattern in ("*.partial*", "*.tmp*") for p in run.rglob(pattern)
    ]
    if (run / "failure.json").exists() and not refused:
        found.append("failure.json")
    for path in run.rglob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError:
            found.append(f"{path.relative_to(run)} (torn)")
    metrics = run / "metrics.jsonl"
    try:
        if metrics.exists():
            read_metrics(metrics)
    except DataError:
        found.append("metrics.jsonl (torn)")
    return found
