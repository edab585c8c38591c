"""Many healthy steps with a first step that is slow and waits that are long: `tests.campaigns.faults`."""

import statistics
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.fault_episodes import HANG_SECONDS, Episode
from tests.campaigns.fault_jobs import Job
from tttscale.observe import read_metrics

HEALTHY_RANKS = 4
_SLOW_FIRST = 10
"""So many times as long as it is by itself takes the first step."""
_LIMIT_SECONDS = 900.0


@dataclass(frozen=True)
class Healthy:
    """What became of healthy steps."""

    steps: int
    first_seconds: float
    median_seconds: float
    wrong: str
    """The alarm, or how else it ended; empty if it did as it should."""

    @property
    def passed(self) -> bool:
        """Whether there was no alarm."""
        return not self.wrong

    def line(self) -> str:
        """Say it for people."""
        found = f"false alarm: {self.wrong}" if self.wrong else "no alarm"
        return (
            f"{self.steps:,} healthy steps of {HEALTHY_RANKS} ranks (the first took "
            f"{self.first_seconds:.1f} s, the median {self.median_seconds:.3f} s): {found}"
        )


def healthy(folder: Path, steps: int) -> Healthy:
    """Run them; `truth-4` is in the folder already.

    The delays: the first step; one step of one rank, by nearly the deadline; a chain of ranks for which the
    last waits for longer than the deadline, since each hands its first carry on late; and rank 0's records,
    for which all wait for twice the deadline.
    """
    own = read_metrics(folder / f"runs/truth-{HEALTHY_RANKS}/metrics.jsonl")[0]["step_seconds"]
    delays = [
        {"rank": 1, "step": 1, "at": "step", "seconds": _SLOW_FIRST * own},
        {"rank": 2, "step": steps // 4, "at": "step", "seconds": 0.8 * HANG_SECONDS},
        {"rank": 0, "step": 3 * steps // 4, "at": "record", "seconds": 2 * HANG_SECONDS},
    ]
    for rank in range(HEALTHY_RANKS - 1):
        at = {"rank": rank, "step": steps // 2, "at": "advance"}
        delays.append({**at, "seconds": 0.6 * HANG_SECONDS})
    keys = [
        *("data.sequence_length=32", "parallel.layout=contiguous", f"train.steps={steps}"),
        *("evaluate.every=0", "checkpoint.every=0", "logging.every=100"),
        f"train.hang_seconds={HANG_SECONDS}",
    ]
    episode = Episode("delays", "first step", HEALTHY_RANKS, ())
    job = Job(folder, episode, "healthy", overrides=keys, order={"delays": delays})
    ended = job.wait(_LIMIT_SECONDS)
    metrics, said = folder / "runs/healthy/metrics.jsonl", "\n".join(ended.texts)
    seconds = [row["step_seconds"] for row in read_metrics(metrics)] if metrics.exists() else []
    wrong = next((line for line in said.splitlines() if line.startswith("FAILED")), "")
    if not wrong and (any(code != 0 for code in ended.codes) or len(seconds) != steps):
        wrong = f"it ended with {ended.codes} after {len(seconds)} steps"
    first = seconds[0] if seconds else 0.0
    return Healthy(len(seconds), first, statistics.median(seconds or [0.0]), wrong)
