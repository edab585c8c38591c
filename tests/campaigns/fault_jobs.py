"""Starts the jobs of `tests.campaigns.faults`, waits for their end, and looks for processes that are left."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.campaigns.fault_episodes import BY_HAND, Episode
from tests.campaigns.fault_hook import LAST_STEP, VARIABLE
from tests.hosts.lab import Space
from tests.ranks import free_port
from tests.warm import Command, Fresh
from tttscale.data import BuildOptions, build_store

ROOT = Path(__file__).parents[2]
PRELOAD = Path(__file__).parent / "preload"
MARK = "TTTSCALE_TEST_EPISODE"
"""Variable by which processes of an episode are found that launchers have started."""
_HOOK = "from tests.campaigns import fault_hook\nfault_hook.install()\n"
_POLL_SECONDS = 0.02
_GONE_SECONDS = 0.5
"""Processes may take so long to vanish after the last one that was waited for."""
_DISK = "size=1m"
_WARM = threading.Lock()
"""`multiprocessing` looks at all its processes whenever it starts one."""
LOOP = """
for attempt in 1 2; do
  pids=()
  for ((rank = 0; rank < N; rank++)); do
    RANK=$rank LOCAL_RANK=$rank "$@" & pids+=($!)
  done
  code=0
  for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
  echo "attempt $attempt ended with $code at $EPOCHREALTIME"
  if ((code == 0)); then exit 0; fi
  cp "$RUN"/failure.json "$RUN"/stacks-*.txt "$NOTES" || true
done
exit "$code"
"""
"""Starts all ranks, and starts them again if one has failed."""


def configuration(folder: Path) -> dict[str, Any]:
    """A run of a few steps with evaluations and checkpoints; most of its time goes into starting."""
    return {
        "run": {"name": "run", "dir": str(folder / "runs")},
        "model": {
            "vocab_size": 259,
            "hidden_size": 12,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mini_batch_size": 4,
            "share_qk": True,
            "use_gate": True,
            "pre_conv": True,
        },
        "data": {"store": str(folder / "store"), "sequence_length": 128},
        "parallel": {"chunk_length": 8},
        "train": {"steps": LAST_STEP, "precision": "fp32", "lr": 1e-2, "warmup_steps": 2},
        "evaluate": {"every": 3, "sequences": 1},
        "checkpoint": {"every": 2, "keep": 2},
        "logging": {"wandb": {"mode": "disabled"}},
    }


def prepare(folder: Path) -> None:
    """Write the token store and the configuration."""
    lines = [f"{n} quick brown foxes jump over {n + 1} lazy dogs. " * 8 for n in range(100)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    build_store(folder / "store", [str(folder / "text.jsonl")], BuildOptions(holdout_fraction=0.3))
    (folder / "run.yaml").write_text(yaml.safe_dump(configuration(folder)))


class Rank(Command):
    """A rank started by hand, from a process that has imported everything."""

    def __init__(self, words: Sequence[object], environ: dict[str, str], before: str) -> None:
        with _WARM:
            super().__init__(words, environ, before)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        with _WARM:
            return super().poll()

    def ends_within(self, seconds: float) -> bool:
        """Whether it does."""
        return _until(lambda: self.poll() is not None, seconds)


@dataclass
class Ended:
    """How a job has ended."""

    codes: list[int | None]
    """Of every process that was started; None: it had to be killed."""
    texts: list[str]
    """What each has said, on stdout and stderr."""
    at: float
    """When the last process was gone; `time.monotonic`."""
    orphans: list[str] = field(default_factory=list)
    """Processes that were left, by name."""


class Job:
    """All processes of one start."""

    def __init__(
        self,
        folder: Path,
        episode: Episode,
        name: str,
        *,
        overrides: Sequence[str] = (),
        order: dict[str, Any] | None = None,
        space: Space | None = None,
    ) -> None:
        """Start.

        Args:
            folder: of the campaign.
            episode: says how many ranks, and under which launcher.
            name: of the run.
            overrides: keys of the run.
            order: for `fault_hook`.
            space: namespaces in which ranks that are started by hand run.
        """
        self._mark = f"{os.getpid()}-{name}-{time.monotonic_ns()}"
        words = ["train", str(folder / "run.yaml"), f"run.name={name}"]
        words += [f"parallel.sequence={episode.ranks}", *overrides]
        environ = {MARK: self._mark, "OMP_NUM_THREADS": "1"}
        if order is not None:
            environ[VARIABLE] = json.dumps(order)
        started: list[Rank | Fresh] = []
        if episode.launcher == BY_HAND:
            started += _by_hand(words, episode.ranks, environ, space)
        else:
            environ |= {"RUN": str(folder / "runs" / name), "NOTES": str(folder / name)}
            started.append(_launched(words, episode, environ))
        self._started = started

    def wait(self, seconds: float) -> Ended:
        """Wait until all processes are gone; kill those that are left after the time."""
        waited = lambda: all(one.poll() is not None for one in self._started)  # noqa: E731
        in_time = _until(lambda: waited() and not self.left(), seconds)
        codes = [one.poll() for one in self._started]
        if in_time:
            return Ended(codes, self.texts(), time.monotonic())
        at, orphans = time.monotonic(), []
        for pid in self.left():
            orphans.append(_name(pid))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _until(lambda: waited() and not self.left(), 10)
        return Ended(codes, self.texts(), at, orphans)

    def left(self) -> list[int]:
        """Processes of this job that are still there."""
        sessions = {one.pid for one in self._started}
        return [pid for pid in _processes() if _is_of(pid, sessions, self._mark)]

    def texts(self) -> list[str]:
        """What each process has said so far."""
        return ["\n".join(one.said()) for one in self._started]


def _by_hand(
    words: Sequence[str], ranks: int, environ: dict[str, str], space: Space | None
) -> list[Rank]:
    port = str(29500 if space is not None else free_port())
    before = _HOOK
    if space is not None:
        before = f"from tests.comm.namespaces import enter\nenter({space.pid})\n{_HOOK}"
    place = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_PORT": port}
    place |= {"MASTER_ADDR": "127.0.0.1", **environ}
    return [
        Rank(words, {**place, "RANK": str(rank), "LOCAL_RANK": str(rank)}, before)
        for rank in range(ranks)
    ]


def _launched(words: Sequence[str], episode: Episode, environ: dict[str, str]) -> Fresh:
    port = str(free_port())
    programs = Path(sys.executable).parent
    paths = [str(PRELOAD), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environ |= {
        "N": str(episode.ranks),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "MASTER_PORT": port,
    }
    if episode.launcher == "bash":
        numbers = {"WORLD_SIZE": str(episode.ranks), "LOCAL_WORLD_SIZE": str(episode.ranks)}
        environ |= {"MASTER_ADDR": "127.0.0.1", **numbers}
        return Fresh(
            ["bash", "-c", LOOP, "loop", sys.executable, "-m", "tttscale", *words], environ
        )
    if episode.launcher == "deepspeed":
        environ |= {"DEEPSPEED_ARGS": f"--master_port {port}"}
    if episode.launcher == "mpirun":
        environ |= {"MPIRUN_ARGS": "--oversubscribe"}
    return Fresh(["bash", ROOT / f"launch/{episode.launcher}.sh", *words[1:]], environ)


def missing(launcher: str) -> str:
    """Why there is no such launcher here; empty if there is."""
    if launcher == BY_HAND:
        return ""
    found = subprocess.run(
        ["bash", "-c", f'command -v "{launcher}"'],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        check=False,
    )
    return f"no {launcher} on the PATH" if found.returncode else ""


def new_space() -> Space | None:
    """Namespaces with a loopback network of their own; None where only root may have them."""
    if os.geteuid() != 0:
        return None
    try:
        space = Space("-n", "-u", "-m")
        space.do("ip link set lo up")
    except (OSError, RuntimeError):
        return None
    return space


def small_disk(space: Space, folder: Path) -> None:
    """Put a small file system of its own at a folder."""
    space.do(f"mkdir -p {folder} && mount -t tmpfs -o {_DISK} tmpfs {folder}")


def fired(notes: Path) -> dict[int, dict[str, Any]]:
    """Rank -> what `fault_hook` has noted when it made the fault."""
    found = {}
    for path in notes.glob("fired-*"):
        with suppress(ValueError):
            note = json.loads(path.read_text())
            found[note["rank"]] = note
    return found


# ---- processes ----------------------------------------------------------------------------------


def _processes() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _is_of(pid: int, sessions: set[int], mark: str) -> bool:
    """Whether a process that still runs is of a session, or was started with the mark."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if stat[0] in "ZX":
            return False
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return int(stat[3]) in sessions or f"{MARK}={mark}".encode() in environ.split(b"\0")


def _name(pid: int) -> str:
    with suppress(OSError):
        words = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
        return f"{pid} {words[:80]}"
    return str(pid)


def _until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
