"""Commands that run on hosts of a lab, and what has become of them."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.lab import Host

LIMIT_SECONDS = 300.0
GRACE_SECONDS = 60.0
"""How long the others may take to end, when a job on one host has failed."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    output: str
    """Both streams, in order."""
    seconds: float

    def passed(self) -> "Done":
        """Return itself, if the command ended with 0."""
        assert self.code == 0, self.output[-6000:]
        return self


class Started:
    """A command on a host; it is ended there when its time is over."""

    def __init__(
        self, host: Host, line: str, cwd: Path, variables: Mapping[str, str], limit_seconds: float
    ) -> None:
        self._file = cwd / f".output-{time.monotonic_ns()}"
        self._begin = time.monotonic()
        self._limit = limit_seconds
        # `timeout` is inside the host, where it ends what the command has started.
        words = host.words("timeout", "-k", 5, f"{limit_seconds:.0f}", "bash", "-c", line, cwd=cwd)
        with self._file.open("wb") as file:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **variables},
                start_new_session=True,
            )

    def output(self) -> str:
        """What it has printed so far."""
        return self._file.read_text(errors="replace")

    def failed(self) -> bool:
        """Whether it has ended, and not with 0."""
        return bool(self._process.poll())

    def end_soon(self) -> None:
        """Give it a while to end by itself, then end it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        self.end()

    def end(self) -> None:
        """End it, with all that it has started."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with suppress(OSError):
            for pid in children.read_text().split():
                os.kill(int(pid), signal.SIGTERM)  # `timeout`, which hands it on

    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def wait(self) -> Done:
        """Wait until it has ended."""
        code = self._process.wait(self._limit + 30)
        done = Done(code, self.output(), time.monotonic() - self._begin)
        self._file.unlink()
        return done


def start(
    host: Host,
    line: str,
    cwd: Path,
    variables: Mapping[str, str] | None = None,
    limit_seconds: float = LIMIT_SECONDS,
) -> Started:
    """Start a line of shell on a host, with a bare environment, in a folder."""
    return Started(host, line, cwd, variables or {}, limit_seconds)


def wait_all(jobs: Sequence[Started]) -> list[Done]:
    """Wait for all of them; when one fails, the others are to end, too."""
    while not all(job.ended() for job in jobs):
        if any(job.failed() for job in jobs):
            for job in jobs:
                job.end_soon()
        time.sleep(0.1)
    return [job.wait() for job in jobs]
