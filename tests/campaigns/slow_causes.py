"""Something is made slow on purpose, at a random place: does the diagnosis name what, and where?

    python -m tests.campaigns.slow_causes --out benchmarks/slow_causes
    python -m tests.campaigns.slow_causes --episodes 9 --processes 0 --seed 7

Most episodes are rehearsed: real sweeps and timelines over ranks as threads that sleep instead of computing;
the last ones (`--processes`) are real processes that compute, over gloo. Exits with 1 if one is wrong.
About three minutes on two cores. A machine with other work holds ranks up; `chrt -r 5` before the command
lets them run first (Linux, root).
"""

import argparse
import os
import random
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.campaigns import computing_ranks
from tests.campaigns.sleeping_ranks import BACKWARD, Fault, Setting, rehearse
from tttscale.bench import report
from tttscale.observe.causes import Cause, diagnose
from tttscale.observe.spans import Trace

KINDS = (
    *("slow edge", "slow rank", "slow data", "slow records", "long chunk", "none"),
    *("chain", "layout", "slow checkpoint"),
)
IN_PROCESSES = KINDS[:6]
_HELD_UP_SHARE = 0.15
"""An episode in which the machine held up a rank for longer is run again: its slowness was not made."""
_ATTEMPTS = 4
HOW = (
    "Each episode runs some steps with one thing made slow at a random place, and diagnoses the trace. "
    "*rehearsed*: real sweeps, schedule, ports and timelines over ranks as threads, which sleep instead of "
    "computing (a backward twice as long as a forward). *measured*: two real processes that train a small "
    "model over gloo. The machine has other work, too: an episode in which it held up a rank for more than "
    "15 % of the time is run again, at most 4 times, before anybody looks at its diagnosis.\n\n"
    "A slow edge delivers every message later by a fixed time; a slow rank needs 1.5 times as long for all "
    "that it computes; slow data makes every read take longer; slow records and checkpoints hold up one rank "
    "between two steps; with too long chunks a rank has one, or some have none; in a chain ranks wait for "
    "the serial part; `none` are healthy controls.\n\n"
    "A diagnosis is right if it names what was made, on that rank or edge, and nothing else that is not "
    "true: a contiguous layout makes ranks wait (*layout*) whatever else is slow, and may cost more; and a "
    "chain gets shorter with shorter chunks. In all other episodes nothing but the cause that was made may "
    "be named, and nothing at all in the controls. *costs*: by how much a step gets "
    "shorter without it, as the diagnosis has it. *held up*: by the machine; and how often it was run."
)


@dataclass(frozen=True)
class Episode:
    """One run with something slow in it."""

    fault: Fault
    setting: Setting
    true: tuple[str, ...] = ()
    """Causes that may be named besides."""
    processes: bool = False

    @property
    def where(self) -> str:
        """The place that is to be found."""
        if self.fault.sender >= 0:
            return f"{self.fault.sender} -> {self.fault.receiver}"
        return str(self.fault.rank) if self.fault.rank >= 0 else ""


@dataclass(frozen=True)
class Result:
    """What came of an episode."""

    episode: Episode
    causes: list[Cause]
    right: bool
    seconds: float
    attempts: int = 1
    held_up: float = 0.0
    """By the machine: share of the time."""


# ---- what is made slow -------------------------------------------------------------------------


def drawn(rng: random.Random, kind: str) -> Episode:
    """A random setting in which this is what makes a step long."""
    if kind == "long chunk":
        return _long_chunk(rng)
    if kind == "chain":
        ranks, layers = rng.choice([6, 7, 8]), 2
        share = (
            2 * layers / ranks * rng.uniform(0.9, 1.0)
        )  # the chain: 1.35 to 1.5 times a rank's work
        setting = Setting(ranks, 8 * ranks, layers, "striped", 0.01, share)
        return Episode(Fault(kind), setting, ("long chunk",))
    if kind == "layout":
        ranks = rng.randint(2, 5)
        setting = Setting(
            ranks, rng.randint(2, 4) * ranks, rng.randint(2, 5), "contiguous", 0.006, 0.1
        )
        return Episode(Fault(kind), setting)
    setting = _sound(rng, contiguous=kind != "none" and rng.random() < 0.3)
    fault = _fault(rng, kind, setting)
    return Episode(fault, setting, ("layout",) if setting.layout == "contiguous" else ())


def _sound(rng: random.Random, *, contiguous: bool) -> Setting:
    """Nothing but work: many chunks, short advances; contiguous ranks are few, as they should be."""
    ranks = rng.randint(2, 4) if contiguous else rng.randint(2, 8)
    layers = rng.randint(4, 8) if contiguous else rng.randint(2, 5)
    sequences = rng.choice([1, 1, 2]) if not contiguous and ranks % 2 == 0 else 1
    own = rng.randint(2, 4) if contiguous else rng.randint(max(6, ranks), 10)
    seconds = 0.006 if contiguous else max(0.004, 0.0008 * ranks)
    return Setting(
        ranks,
        own * ranks // sequences,
        layers,
        "contiguous" if contiguous else "striped",
        seconds,
        rng.uniform(0.05, 0.12) if layers > 2 else 0.06,
        sequences,
        kept=rng.choice([0, 1, 2]),
    )


def _long_chunk(rng: random.Random) -> Episode:
    """Each rank has a single chunk, or some have one more, or none."""
    ranks = rng.randint(2, 8)
    layers = 2 if ranks < 5 else rng.randint(2, 4)
    advance = min(0.6, rng.uniform(0.6, 0.8) * 4 * layers / (3 * ranks))
    chunks = rng.choice([ranks, ranks, ranks + 1, max(2, ranks - 1)])
    return Episode(Fault("long chunk"), Setting(ranks, chunks, layers, "striped", 0.01, advance))


def _fault(rng: random.Random, kind: str, setting: Setting) -> Fault:
    """Slow enough to be the most costly thing of a step."""
    rank, share = rng.randrange(setting.ranks), rng.uniform(0.2, 0.35)
    step = setting.own * setting.all_seconds
    if setting.layout == "contiguous":
        step *= 1 + (setting.ranks - 1) / setting.layers
    if kind == "slow edge":
        return _slow_edge(rng, setting, share, step)
    if kind == "slow rank":
        return Fault(kind, rank, factor=1.5)
    if kind == "slow data":
        # Read while the chunk before is computed: forward, or recomputed and backward.
        seconds = setting.chunk_seconds + share * setting.all_seconds
        if (
            setting.layout == "contiguous"
        ):  # a task is a single layer, and so is what is read for it
            seconds = setting.layer_seconds * (1 + share * (2 + BACKWARD))
        return Fault(kind, rank, seconds=seconds)
    if kind in ("slow records", "slow checkpoint"):
        return Fault(kind, rank, seconds=share * step)
    return Fault()


def _slow_edge(rng: random.Random, setting: Setting, share: float, step: float) -> Fault:
    """Late by more than what ranks compute meanwhile, of all sequences; a gradient has more time."""
    ranks = setting.ranks
    meanwhile = setting.sequences * setting.chunk_seconds
    if setting.layout == "contiguous":
        left = rng.randrange(ranks - 1)
        ends, seconds = (left, left + 1), share * step
    else:
        left = rng.randrange(ranks)
        ends = left, (left + 1) % ranks
        seconds = meanwhile + share * setting.all_seconds
    if rng.random() < 0.5:
        ends = ends[::-1]
        if setting.layout == "striped" and ranks > 2:  # only gradients go there
            seconds += BACKWARD * meanwhile
    return Fault("slow edge", sender=ends[0], receiver=ends[1], seconds=seconds)


def in_processes(rng: random.Random, kind: str) -> Episode:
    """Two ranks that compute."""
    chunks = 3 if kind == "long chunk" else 8
    setting = Setting(computing_ranks.RANKS, chunks, 2, "striped", 0.0, 0.0)
    rank = rng.randrange(2)
    faults = {
        "slow edge": Fault(kind, sender=rank, receiver=1 - rank),
        "slow rank": Fault(kind, rank, factor=1.5),
        "slow data": Fault(kind, rank),
        "slow records": Fault(kind, rank),
        "long chunk": Fault(kind),
    }
    return Episode(faults.get(kind, Fault()), setting, processes=True)


# ---- the verdict -------------------------------------------------------------------------------


def run(episode: Episode, most_attempts: int = _ATTEMPTS) -> Result:
    """Rehearse or compute it, and diagnose the trace."""
    began, attempts = time.monotonic(), 1
    trace, held_up = _traced(episode)
    while held_up > _HELD_UP_SHARE and attempts < most_attempts:
        attempts += 1
        time.sleep(1.0)
        trace, held_up = _traced(episode)
    causes = diagnose(trace)
    seconds = time.monotonic() - began
    return Result(episode, causes, is_right(episode, causes), seconds, attempts, held_up)


def _traced(episode: Episode) -> tuple[Trace, float]:
    if episode.processes:
        return computing_ranks.compute(episode.fault, chunks=episode.setting.chunks)
    return rehearse(episode.setting, episode.fault)


def is_right(episode: Episode, causes: Sequence[Cause]) -> bool:
    """The cause that was made is named, at its place, and every other one is true, too."""
    fault = episode.fault
    made = [cause for cause in causes if cause.kind not in episode.true or cause.kind == fault.kind]
    if len(made) != 1:
        return False
    place = (made[0].kind, made[0].rank, made[0].sender, made[0].receiver)
    return place == (fault.kind, fault.rank, fault.sender, fault.receiver)


def episodes(count: int, processes: int, seed: int) -> Iterator[Episode]:
    """So many in all; kinds take turns, the last ones are real processes."""
    rng = random.Random(seed)
    processes = min(processes, count)
    for number in range(count - processes):
        yield drawn(rng, KINDS[number % len(KINDS)])
    for number in range(processes):
        yield in_processes(rng, IN_PROCESSES[number % len(IN_PROCESSES)])


def row(number: int, result: Result) -> dict[str, Any]:
    """Make a row of the table."""
    setting, episode = result.episode.setting, result.episode
    found = [f"{c.kind} {_place(c)}({c.share:.0%})" for c in result.causes if c.kind != "none"]
    return {
        "episode": number,
        "made": episode.fault.kind,
        "where": episode.where,
        "ranks": setting.ranks,
        "layout": setting.layout,
        "chunks": setting.chunks,
        "layers": setting.layers,
        "sequences": setting.sequences,
        "trace": "measured" if episode.processes else "rehearsed",
        "named (costs)": ", ".join(found) or "none",
        "held up, runs": f"{result.held_up:.0%}, {result.attempts}",
        "right": "yes" if result.right else "**no**",
    }


def _place(cause: Cause) -> str:
    if cause.sender >= 0:
        return f"{cause.sender} -> {cause.receiver} "
    return f"{cause.rank} " if cause.rank >= 0 else ""


def write(out: Path, results: Sequence[Result]) -> None:
    """OUT.md and OUT.json."""
    rows = [row(number, result) for number, result in enumerate(results, 1)]
    right = sum(result.right for result in results)
    false = [r for r in results if r.episode.fault.kind == "none" and not r.right]
    controls = sum(r.episode.fault.kind == "none" for r in results)
    said = f"{right} of {len(results)} right; {len(false)} false alarms in {controls} healthy controls."
    examples = {r.causes[0].kind: r.causes[0] for r in results if r.right and r.causes}
    words = "\n".join(f"- **{c.kind}**: {c.evidence}. *{c.next_step}*" for c in examples.values())
    data = [
        {**line, "causes": [vars(cause) for cause in result.causes], "seconds": result.seconds}
        for line, result in zip(rows, results, strict=True)
    ]
    sections = [
        ("Result", f"{said}\n\n{report.table(rows)}"),
        ("What is said", words),
        ("How", HOW),
    ]
    first = "chrt -r 5 " if os.sched_getscheduler(0) == os.SCHED_RR else ""
    command = f"{first}python -m tests.campaigns.slow_causes {shlex.join(sys.argv[1:])}"
    report.write(out, "Slow causes", sections, data, command)


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description="Is what was made slow named, with its place?")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--processes", type=int, default=6, help="of these in real processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="report path without suffix")
    asked = parser.parse_args()
    warm_up()
    results = []
    for number, episode in enumerate(episodes(asked.episodes, asked.processes, asked.seed), 1):
        results.append(run(episode))
        line = row(number, results[-1])
        print("  ".join(str(value) for value in line.values() if value != ""), flush=True)
        if not results[-1].right:
            print(f"     {episode}", *results[-1].causes, sep="\n     ", flush=True)
    right = sum(result.right for result in results)
    print(f"{right} of {len(results)} right")
    if asked.out:
        write(asked.out, results)
    sys.exit(right < len(results))


def warm_up() -> None:
    """What a process does once only, before anything is timed."""
    rehearse(Setting(2, 4, 2, "striped", 0.001, 0.1, steps=1), Fault())


if __name__ == "__main__":
    main()
