"""What a failed run leaves in its folder: `failure.json`, and one line more in `failures.jsonl`.

`failure.json` is of the last start; the next one that takes the folder removes it.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tttscale import __version__
from tttscale.cluster.ranks import Ranks, job_of
from tttscale.files import open_end, write_text
from tttscale.scrub import scrubbed
from tttscale.supervise.verdict import Verdict

FAILURE, FAILURES = "failure.json", "failures.jsonl"
_ATTEMPTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
"""Variables in which launchers say how often they have started the job before."""


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
    """Write both files; the folder is made if it is missing.

    Returns:
        The path of `failure.json`.

    Raises:
        OSError: the file system refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FAILURE
    write_text(path, json.dumps(fields, indent=2) + "\n")
    with open_end(folder / FAILURES) as file:
        file.write((json.dumps(fields) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
    return path


def is_newer(folder: Path, than: float) -> bool:
    """Whether a failure was written after a time, in seconds since 1970: another rank was faster."""
    try:
        return (folder / FAILURE).stat().st_mtime >= than
    except OSError:
        return False


def clear(folder: Path) -> None:
    """Remove the failure of an earlier start, which `failures.jsonl` has, too.

    Raises:
        OSError: the file system refused.
    """
    (folder / FAILURE).unlink(missing_ok=True)
