"""Ranks that are killed, stopped, stuck or fail: does the job end in time, name the culprit, and resume?

    python -m tests.campaigns.faults --out benchmarks/faults
    python -m tests.campaigns.faults --only stop torchrun --seed 7
    python -m tests.campaigns.faults --list

Every episode makes one fault in a real job, at one place of a run (`fault_hook`, which nothing in `tttscale`
knows), and is graded by what its processes said, how and when they ended, what they left, and whether the
same command then comes to the same bits as a run that was not disturbed. Exits with 1 if one is wrong.
Linux. Cut links and full disks take root. Under 15 minutes on two quiet cores.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.campaigns.fault_episodes import LAUNCHERS, NEEDS_SPACE, Episode, episodes
from tests.campaigns.fault_grades import Result, grade_again, grade_end
from tests.campaigns.fault_healthy import HEALTHY_RANKS, Healthy, healthy
from tests.campaigns.fault_jobs import Job, fired, missing, new_space, prepare, small_disk
from tests.campaigns.fault_report import write

_START_SECONDS = 240.0
"""For a job to come to the place of its fault, or to its end."""
_OVER_SECONDS = 20.0
"""How much too long a job is watched, to see how long it takes."""
_PROCESSES = 3
"""Jobs side by side; those that hang wait for their deadline and take no time of a processor."""
Outcome = tuple[list[Result], Healthy | None]


class Campaign:
    """A folder with a store, a configuration, and undisturbed runs."""

    def __init__(self, folder: Path, patience: float) -> None:
        """Prepare the folder.

        Args:
            folder: for all runs.
            patience: by which factor everything may take longer, on a machine with other work.
        """
        self.folder, self._patience = folder, patience
        prepare(folder)

    def undisturbed(self, ranks: int, name: str = "") -> None:
        """Make `truth-RANKS`: what every run of so many ranks has to come to.

        Args:
            ranks: how many.
            name: of the run, if it is another one.
        """
        episode = Episode("none", "imports", ranks, ())
        ended = Job(self.folder, episode, name or f"truth-{ranks}").wait(_START_SECONDS)
        if any(code != 0 for code in ended.codes):
            raise SystemExit(
                f"the undisturbed run of {ranks} ranks ended with {ended.codes}: {ended.texts}"
            )

    def run(self, episode: Episode) -> Result:
        """Run an episode and grade it."""
        name, result = f"episode-{episode.number}", Result(episode)
        notes = self.folder / name
        notes.mkdir()
        space = new_space() if episode.fault in NEEDS_SPACE else None
        try:
            self._disturb(result, name, space)
            if "fired" not in result.wrong and episode.resumes:
                self._again(result, name, space)
        finally:
            if space is not None:
                space.end()
        return result

    def _keys(self, episode: Episode) -> list[str]:
        return [f"train.hang_seconds={episode.hang_seconds * self._patience}", *episode.overrides]

    def _disturb(self, result: Result, name: str, space: Any) -> None:
        episode, notes = result.episode, self.folder / name
        checkpoints = self.folder / "runs" / name / "checkpoints"
        if episode.fault == "disk full":
            small_disk(space, checkpoints)
        order = {
            "fault": episode.fault,
            "place": episode.at,
            "later": episode.later,
            "ranks": episode.victims[:1] if episode.fault == "cut link" else episode.victims,
            "other": episode.victims[-1],
            "folder": str(notes),
            "disk": str(checkpoints),
            "driver": os.getpid(),
        }
        job = Job(
            self.folder, episode, name, overrides=self._keys(episode), order=order, space=space
        )
        began = time.monotonic()
        while not fired(notes) and job.left() and time.monotonic() - began < _START_SECONDS:
            time.sleep(0.1)
        ended = job.wait(self._watched_seconds(episode))
        result.said = "\n".join(ended.texts)
        grade_end(result, ended, fired(notes), self._record_of(episode, name), self._patience)
        if episode.fault == "disk full" and space is not None:
            space.do(f"rm -f {checkpoints}/ballast")
        if episode.launcher == "bash":  # it has resumed by itself
            grade_again(result, ended, self.folder, name)

    def _watched_seconds(self, episode: Episode) -> float:
        seconds = episode.allowed_seconds * self._patience + _OVER_SECONDS
        return seconds + (_START_SECONDS if episode.launcher == "bash" else 0)

    def _record_of(self, episode: Episode, name: str) -> Path:
        """Where its failure.json is: the loop has kept that of the first start."""
        return self.folder / name if episode.launcher == "bash" else self.folder / "runs" / name

    def _again(self, result: Result, name: str, space: Any) -> None:
        episode = result.episode
        if episode.launcher == "bash":
            return
        job = Job(self.folder, episode, name, overrides=self._keys(episode), space=space)
        ended = job.wait(_START_SECONDS)
        grade_again(result, ended, self.folder, name)
        if "same" in result.wrong:
            result.said += "\n--- again ---\n" + "\n".join(ended.texts)


def campaign(chosen: Sequence[Episode], patience: float, processes: int, steps: int) -> Outcome:
    """Run episodes, some side by side, and many healthy steps."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = Campaign(folder, patience)
        sizes = {episode.ranks for episode in chosen} | ({HEALTHY_RANKS} if steps else set())
        for ranks in sorted(sizes):
            runs.undisturbed(ranks)

        def one(episode: Episode) -> Result:
            result = runs.run(episode)
            sign = "ok" if result.passed else "WRONG"
            print(
                f"{sign:5}  {episode.number:3}  {episode.name}: {result.seconds:.1f} s", flush=True
            )
            for grade, what in result.wrong.items():
                print(f"            {grade}: {what}", flush=True)
            return result

        with ThreadPoolExecutor(processes) as pool:
            alarms = pool.submit(healthy, folder, steps) if steps else None
            results = list(pool.map(one, chosen))
            return results, None if alarms is None else alarms.result()


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(
        description="Does a job that fails end in time, with its culprit?"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        metavar="WORD",
        help="episodes with all these in their names",
    )
    parser.add_argument("--list", action="store_true", help="name all episodes and end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=_PROCESSES, help="jobs side by side")
    parser.add_argument(
        "--patience", type=float, default=1.0, help="everything may take so many times longer"
    )
    parser.add_argument("--healthy", type=int, default=1000, metavar="STEPS", help="0: none")
    parser.add_argument(
        "--words", action="store_true", help="show what the processes of a wrong episode said"
    )
    parser.add_argument("--out", type=Path, help="report path without suffix")
    asked = parser.parse_args()
    absent = {name: why for name in LAUNCHERS if (why := missing(name))}
    chosen = episodes(asked.seed, [name for name in LAUNCHERS if name not in absent])
    chosen = [e for e in chosen if all(word in e.name for word in asked.only)]
    if asked.list:
        print(*(f"{e.number:3}  {e.name}" for e in chosen), sep="\n")
        return
    if os.geteuid() != 0:
        absent |= dict.fromkeys(sorted(NEEDS_SPACE), "takes root")
        chosen = [e for e in chosen if e.fault not in NEEDS_SPACE]
    for name, why in absent.items():
        print(f"left out: {name}: {why}", flush=True)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # jobs and namespaces end with this process
    began = time.monotonic()
    steps = 0 if asked.only else asked.healthy
    results, alarms = campaign(chosen, asked.patience, asked.processes, steps)
    wrong = [result for result in results if not result.passed]
    if asked.words:
        for result in wrong:
            print(f"==== {result.episode.name}", result.said, sep="\n", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{len(results) - len(wrong)} of {len(results)} right, in {minutes:.1f} minutes")
    if alarms is not None:
        print(alarms.line())
    if asked.out:
        write(asked.out, results, alarms, absent, asked.patience, minutes)
    sys.exit(bool(wrong) or (alarms is not None and not alarms.passed))


if __name__ == "__main__":
    main()
