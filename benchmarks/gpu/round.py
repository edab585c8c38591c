"""Workers of a round on a GPU: processes under one deadline, whose rows are kept as they come."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread, Timer
from typing import Any, Protocol

from benchmarks.gpu import machine
from tttscale.bench.report import beside, row_of
from tttscale.files import write_text

NO_GPU = "no GPU found: the CPU, interpreted, small shapes; times mean nothing"
_TAIL_LINES = 3
_LEAST_SECONDS = 1.0
_PIPE_SECONDS, _WATCH_SECONDS = 5.0, 0.02


@dataclass(frozen=True)
class Ending:
    """How a process ended."""

    code: int
    stderr: str = ""
    late: bool = False
    """The deadline stopped it."""
    asked: bool = False
    """It was killed because its time had come (`until`)."""

    @property
    def tail(self) -> str:
        """Its last words on stderr, without where packages lie on this machine."""
        lines = self.stderr.strip().splitlines()[-_TAIL_LINES:]
        return re.sub(r"/[^\s\"']*/site-packages/", "", " / ".join(lines))


def run_lines(
    command: Sequence[str],
    env: dict[str, str],
    seconds: float,
    take: Callable[[str], None],
    until: Callable[[], bool] | None = None,
) -> Ending:
    """Run a command and all that it starts; take each line as it is printed.

    Args:
        command: program and arguments.
        env: all of its environment.
        seconds: after which it is killed.
        take: gets every line of its standard output.
        until: it is killed as soon as this is true.
    """
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            command, env=env, text=True, stdout=subprocess.PIPE, stderr=errors, process_group=0
        )
        late, asked = Event(), Event()

        def stop() -> None:
            late.set()
            _end(process)

        def watch() -> None:
            """End the process when it is asked to stop."""
            assert until is not None
            while process.poll() is None:
                if until():
                    asked.set()
                    return _end(process)
                time.sleep(_WATCH_SECONDS)

        def read() -> None:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    take(line)

        timer, reader = Timer(seconds, stop), Thread(target=read, daemon=True)
        timer.start()
        reader.start()
        try:
            if until is not None:
                watch()
            code = process.wait()
        finally:
            timer.cancel()
            _end(process)
        # Not for ever: another process may hold the pipe open.
        reader.join(_PIPE_SECONDS)
        errors.seek(0)
        return Ending(code, errors.read(), late.is_set(), asked.is_set())


def _end(process: "subprocess.Popen[str]") -> None:
    """Kill what is left of a process group: whoever is in it holds the device, too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class Log:
    """A file with every row of a round on a line, up to date whatever happens to the round."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "")
        self._path, self._lock = path, Lock()

    def add(self, worker: str, row: dict[str, Any]) -> None:
        """Append a row under the name of its worker."""
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"worker": worker, **row}) + "\n")


class Round:
    """Workers under one deadline, each in a process of its own."""

    def __init__(self, device: str, seconds: float, log: Log | None = None) -> None:
        self.device, self.ends, self.log = device, time.monotonic() + seconds, log
        self.env = machine.environment()
        if device == "cpu":
            self.env |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        self.missing: list[str] = []
        """What was not measured, and why."""
        self.late = 0
        """Workers of this part of the round that the deadline stopped or did not let begin."""
        self.failed = 0
        """Those that ended with an error."""

    @property
    def left_seconds(self) -> float:
        """Until the deadline."""
        return self.ends - time.monotonic()

    def until(self, share: float) -> "Round":
        """The same round with a nearer deadline: `share` of the time that is left."""
        return self.for_seconds(share * self.left_seconds)

    def for_seconds(self, seconds: float) -> "Round":
        """The same round with a deadline so far from now, if its own is not nearer."""
        part = Round(self.device, min(seconds, self.left_seconds), self.log)
        part.missing = self.missing
        return part

    def worker(self, module: str, *words: str, prefix: Sequence[str] = ()) -> list[dict[str, Any]]:
        """The rows that a worker printed, all up to its end; if that was no good one, it is noted why."""
        name = " ".join((module, *words))  # of benchmarks/, such as gpu.errors
        rows: list[dict[str, Any]] = []

        def take(line: str) -> None:
            row = row_of(line)
            if row is not None:
                rows.append(row)
                if self.log is not None:
                    self.log.add(name, row)

        left = self.left_seconds
        if left < _LEAST_SECONDS:
            self.late += 1
            self.missing.append(f"{name}: no time left")
            return rows
        command = [*prefix, sys.executable, "-m", f"benchmarks.{module}", *words]
        ended = run_lines(command, self.env, left, take)
        kept = f"; its {len(rows)} rows until then are kept" if rows else ""
        if ended.late:
            self.late += 1
            self.missing.append(f"{name}: stopped at the deadline{kept}")
        elif ended.code:
            self.failed += 1
            self.missing.append(f"{name}: ended with {ended.code}: {ended.tail}{kept}")
        return rows

    def together(
        self, calls: Sequence[Callable[[], list[dict[str, Any]]]], at_once: int | None = None
    ) -> list[dict[str, Any]]:
        """Rows of workers that run side by side, by default one a core."""
        with ThreadPoolExecutor(at_once or os.cpu_count() or 1) as pool:
            return [row for rows in pool.map(lambda call: call(), calls) for row in rows]


def side_by_side(calls: Sequence[Callable[[], Any]]) -> None:
    """Make all calls at once, each to its end, and then raise the first error."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(call) for call in calls]
    for future in futures:
        future.result()


@dataclass(frozen=True)
class Stage:
    """One part of a round, and its share of the time."""

    name: str
    seconds: float
    """Its share of a round of full length; what a stage leaves over goes to those after it."""
    run: Callable[[Round], Any]


def run_stages(work: Round, stages: Sequence[Stage], done: Callable[[str, float], None]) -> None:
    """Run all stages in order, each until its deadline. One that breaks says so, and the rest follow.

    On a CPU all have the deadline of the round.

    Args:
        work: the round.
        stages: what to do.
        done: called after each stage with its name and how many seconds it took.
    """
    whole, total = work.left_seconds, sum(stage.seconds for stage in stages)
    began, planned = time.monotonic(), 0.0
    for stage in stages:
        planned += stage.seconds
        now = time.monotonic()
        # A CPU's times mean nothing: there a stage may take whatever is left.
        share = planned / total if work.device == "cuda" else 1.0
        part = work.for_seconds(began + whole * share - now)
        try:
            stage.run(part)
        except Exception as error:  # of this stage alone
            work.missing.append(f"{stage.name}: {error!r}")
        work.late, work.failed = work.late + part.late, work.failed + part.failed
        done(stage.name, time.monotonic() - now)


class Findings(Protocol):
    """Results of a round, and its report."""

    stage_seconds: dict[str, float]

    def write(self, out: Path) -> None:
        """Write the report as it stands."""


def conduct(work: Round, stages: Sequence[Stage], found: Findings, out: Path) -> None:
    """Run the stages, write the report after each, and print it at the end."""

    def done(name: str, taken: float) -> None:
        found.stage_seconds[name] = taken
        found.write(out)

    run_stages(work, stages, done)
    print(beside(out, ".md").read_text(encoding="utf-8"))


def from_command_line(main: Callable[[Path, float], int], default_seconds: float) -> None:
    """Run a round's `main` with the command line's OUT [SECONDS]; end with its exit code."""
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else default_seconds
    sys.exit(main(Path(sys.argv[1]), seconds))
