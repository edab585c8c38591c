"""`failure.json`, which a failed start leaves in the run's folder; the next one that runs removes it."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tttscale import __version__
from tttscale.cluster.ranks import Ranks, job_of
from tttscale.files import write_text
from tttscale.scrub import scrubbed
from tttscale.supervise.verdict import Verdict

FAILURE = "failure.json"
_ATTEMPTS = ("TTTSCALE_RESTART_COUNT", "SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT")
"""Variables in which launchers say how often they have started the job before."""
_TICK_SECONDS = 0.02
"""Files are stamped by the clock of the kernel's ticks, which is up to 10 ms behind `time.time`."""


def record(
    verdict: Verdict, ranks: Ranks, environ: Mapping[str, str], stacks: Sequence[str] = ()
) -> dict[str, Any]:
    """Return what is written about a failure; without credentials.

    Args:
        verdict: which rank, and why.
        ranks: of the supervisor that writes.
        environ: its environment, which names the job and its attempt.
        stacks: names of files in the run's folder.
    """
    variable, job = job_of(environ, ranks.source)
    attempt = next((environ[name] for name in _ATTEMPTS if environ.get(name)), None)
    return {
        "rank": verdict.rank,
        "host": verdict.host,
        "phase": verdict.phase,
        "step": verdict.step,
        "cause": scrubbed(verdict.cause),
        "exit_code": verdict.exit_code,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "world_size": ranks.world_size,
        "launcher": ranks.source,
        "job": f"{variable}={scrubbed(job)}" if job else None,
        "attempt": int(attempt) if attempt and attempt.isdecimal() else None,
        "stacks": list(stacks),
        "tttscale": __version__,
    }


def write(folder: Path, fields: Mapping[str, Any]) -> Path:
    """Write the file; the folder is made if it is missing.

    Returns:
        Its path.

    Raises:
        OSError: the file system refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FAILURE
    write_text(path, json.dumps(fields, indent=2) + "\n")
    return path


def is_newer(folder: Path, than: float) -> bool:
    """Whether it was written after a time, in seconds since 1970: by another rank of this start."""
    return is_newer_file(folder / FAILURE, than)


def is_newer_file(path: Path, than: float) -> bool:
    """Whether a file was written after a time, in seconds since 1970."""
    try:
        return path.stat().st_mtime >= than - _TICK_SECONDS
    except OSError:
        return False
