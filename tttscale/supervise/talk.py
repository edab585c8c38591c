"""What supervisors say to each other, checked word by word: each may run another version, or be damaged."""

import math
from dataclasses import fields
from typing import Any

from tttscale.supervise.page import Beat
from tttscale.supervise.signs import beat_of
from tttscale.supervise.verdict import Ended, Verdict

SILENT_SECONDS = 20.0
"""Without a word for so long, a supervisor is lost: its host is gone, or the network."""
BEAT_SECONDS = 1.0
"""Between two words of a supervisor. Those of a rank without progress are what finds a hang: no seldomer."""
_LONGEST = 2000


def text_of(value: Any) -> str:
    """Return a text as it may be printed: in one line, not too long, nothing that a terminal obeys."""
    words = " ".join(str(value)[: 2 * _LONGEST].split())[:_LONGEST]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


def ended_message(ended: Ended) -> dict[str, Any]:
    """Return it as JSON knows it."""
    return {
        "host": ended.host,
        "code": ended.code,
        "cause": text_of(ended.cause),
        "last": [getattr(ended.last, field.name) for field in fields(Beat)],
    }


def ended_of(message: Any, rank: int) -> Ended:
    """Read what `ended_message` makes.

    Raises:
        ValueError: it is none.
    """
    try:
        code = message["code"]
        if isinstance(code, bool) or not isinstance(code, int) or abs(code) > 255:
            raise ValueError("no exit code")
        host, cause = text_of(message["host"]), text_of(message["cause"])
        return Ended(rank, host, code, cause, beat_of(message["last"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no end: {error}") from None


def ago_of(value: Any) -> float:
    """Read how many seconds ago something was.

    Raises:
        ValueError: it is no number of seconds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("no number of seconds")
    return max(0.0, float(value))


def verdict_of(message: Any) -> Verdict:
    """Read a verdict.

    Raises:
        ValueError: it is none.
    """
    try:
        rank, step, code = (message[name] for name in ("rank", "step", "exit_code"))
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in (rank, step, code)):
            raise ValueError("no numbers")
        if not 0 < code < 256:
            raise ValueError("no exit code")
        host, phase, cause = (text_of(message[name]) for name in ("host", "phase", "cause"))
        return Verdict(rank, host, phase, step, cause, code)
    except (KeyError, TypeError) as error:
        raise ValueError(f"no verdict: {error}") from None
