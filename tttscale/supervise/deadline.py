"""After how many seconds without a sign of life a rank hangs: from the key and from what was measured.

The key's number D is the floor inside of steps. A healthy rank may take five times as long as any rank has
taken before. Where nothing is measured and much may be slow (start-up, the first step of a start, saving),
the floor is ten times as high.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from tttscale.reading import parse_json
from tttscale.supervise.signs import Kind

AUTO_SECONDS = 60.0
"""What `train.hang_seconds: auto` stands for."""
_TIMES = 5.0
"""So much longer than ever before may something take."""
_TIMES_FIRST = 2.0
"""So much longer than in the first step, which compiles and fills caches, until a second one is measured."""
_TIMES_ELSEWHERE = 10.0
_SAID_SECONDS = 60.0


@dataclass(frozen=True)
class Rules:
    """What a supervisor must know of a run to judge its ranks; the ranks read it in the configuration."""

    hang_seconds: float = AUTO_SECONDS
    """The floor D; 0: no rank ever hangs."""
    sequence: int = 1
    """Ranks that share a sequence, neighbours in the world."""
    layout: str = "striped"
    """As in `tttscale.scan.layout`: the order of tasks on a rank."""

    def text(self) -> str:
        """Return it as a page carries it."""
        return json.dumps(asdict(self))

    @classmethod
    def of(cls, text: str) -> "Rules":
        """Read a page's text; the defaults before the configuration has been read."""
        return cls(**parse_json(text.encode())) if text else cls()


def limit_seconds(rules: Rules, kind: str, longest: Mapping[str, float], steps_done: bool) -> float:
    """Return how long a rank may show no change of activity, or all ranks together while they wait.

    Args:
        rules: of the run.
        kind: where the rank is (`tttscale.supervise.signs.Kind`).
        longest: by kind, the seconds that it took on any rank so far: of the longest activity that was no
            wait, for a rank that waits for no other; of the longest phase, where all wait.
        steps_done: a step after the first of this start has been measured.
    """
    if rules.hang_seconds <= 0:
        return math.inf
    if kind != Kind.STEP:
        return max(_TIMES_ELSEWHERE * rules.hang_seconds, _TIMES * longest.get(kind, 0.0))
    if steps_done:
        return max(rules.hang_seconds, _TIMES * longest.get(kind, 0.0))
    return max(rules.hang_seconds, _TIMES_FIRST * longest.get(Kind.FIRST, 0.0))


def said_seconds(limit_seconds: float) -> float:
    """Return after how many seconds without progress anywhere a line says who waits for whom.

    Args:
        limit_seconds: after which all ranks together hang.
    """
    return min(_SAID_SECONDS, limit_seconds / 2)
