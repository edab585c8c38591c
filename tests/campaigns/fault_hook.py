"""Makes one fault in a rank, at one place of a run: what `tests.campaigns.faults` puts into its processes.

Nothing of it is in `tttscale`. `install` patches functions of the package as soon as they are imported, and
leaves a note in a folder of the campaign before the fault happens: the ground truth of an episode. Standard
library only, for it is imported before anything else (`preload/sitecustomize.py`).
"""

import functools
import importlib.abc
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

VARIABLE = "TTTSCALE_TEST_FAULT"
"""Variable that holds an order as JSON."""
MESSAGE = "a fault made by a test"
_IMPORT_SECONDS = 2.0
"""About as long as a rank takes until it meets others if it is not forked from a warm process. Nobody knows
of a supervisor yet that is gone sooner."""
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


class Place(NamedTuple):
    """A place in the course of a run."""

    phase: str
    """As the supervisor has to report it."""
    targets: tuple = ()
    """(module, attribute): functions at whose call it is."""
    activity: tuple = ()
    """(activity, run) of a timeline, of which it is the beginning."""
    step: int = 0
    """In which step a fault is made there; 0: before the first."""


_TRAINER, _RUN = "tttscale.train.trainer", "tttscale.train.training_run"
_RECORDER, _MANAGER = "tttscale.train.recorder", "tttscale.train.checkpoint.manager"
_WRITER = "tttscale.train.checkpoint.writer"
LAST_STEP = 6
PLACES = {
    "imports": Place("start-up", (("tttscale.config", "load_config"),)),
    "start-up": Place("start-up", ((_RUN, "open_mixture"),)),
    "meeting": Place("meeting", (("tttscale.comm.mesh", "meet"),)),
    "connecting": Place("meeting", (("tttscale.comm.mesh", "check_agreement"),)),
    "set-up": Place("set-up", (("tttscale.train.build", "build_model"),)),
    "first step": Place("step", ((_TRAINER, "Trainer.step"),), step=1),
    "wait": Place("step", activity=("wait", "forward"), step=3),
    "advance": Place("step", activity=("advance", "forward"), step=4),
    "backward": Place("step", activity=("head", "backward"), step=5),
    "reduction": Place("step", activity=("reduce", None), step=3),
    "optimizer": Place("step", activity=("optimizer", None), step=4),
    "evaluation": Place("evaluation", ((_TRAINER, "Trainer.evaluate"),), step=3),
    "records": Place(
        "records", ((_RECORDER, "RunRecorder.step"), (_RECORDER, "NullRecorder.step")), step=3
    ),
    "checkpoint": Place(
        "checkpoint",
        ((_MANAGER, "CheckpointManager.save"), (_MANAGER, "CheckpointManager.begin")),
        step=4,
    ),
    "closing": Place(
        "closing",
        ((_RECORDER, "RunRecorder.finish"), (_RECORDER, "NullRecorder.finish")),
        step=LAST_STEP,
    ),
    "saving": Place("", ((_WRITER, "CheckpointWriter._write_files"),), step=4),
}
_TIMELINE = ("tttscale.observe.timeline", "Timeline.begin")
_STEPS = (_TRAINER, "Trainer.step")


def install() -> None:
    """Obey the order in the environment; nothing without one."""
    if text := os.environ.get(VARIABLE):
        order = json.loads(text)
        patch(Delays(order).wraps() if "delays" in order else Injection(order).wraps())


class Injection:
    """One order: `fault`, `place`, `ranks`, `folder` of the notes; `driver`, the campaign's process id."""

    def __init__(self, order: dict) -> None:
        self._fault, self._name = order["fault"], order["place"]
        self._place, self._order = PLACES[self._name], order
        self._when = self._place.step + order.get("later", 0)
        self._folder, self._step = Path(order["folder"]), 0
        self._rank = _own_rank()
        self._shots = 0

    def wraps(self) -> dict:
        """What is patched: (module, attribute) -> a decorator."""
        wraps: dict = {_STEPS: self._noting_steps}
        for target in self._place.targets:
            wraps[target] = self._before if target != _STEPS else self._noting_steps
        if self._place.activity:
            wraps[_TIMELINE] = self._beginning
        return wraps

    def _noting_steps(self, plain):
        @functools.wraps(plain)
        def call(trainer, step, *args, **options):
            self._step = step
            (self._folder / f"here-{self._rank}").write_text(str(os.getpid()))
            if _STEPS in self._place.targets:
                self._at_place()
            return plain(trainer, step, *args, **options)

        return call

    def _before(self, plain):
        @functools.wraps(plain)
        def call(*args, **options):
            self._at_place()
            return plain(*args, **options)

        return call

    def _beginning(self, plain):
        wanted, run_wanted = self._place.activity

        @functools.wraps(plain)
        def begin(timeline, activity, run=None, *args, **options):
            plain(timeline, activity, run, *args, **options)
            if activity == wanted and (run_wanted is None or run == run_wanted):
                self._at_place()

        return begin

    def _at_place(self) -> None:
        """Make the fault if it is this rank's, and its step."""
        if self._rank not in self._order["ranks"] or self._shots or self._step < self._when:
            return
        self._shots += 1
        if self._place.phase in ("start-up", "meeting") and "supervisor" in self._fault:
            time.sleep(_IMPORT_SECONDS)
        if self._fault == "cut link":  # noted when it is cut
            _cut_link(self._folder, self._rank, self._order["other"])
        try:
            note = os.open(
                self._folder / f"fired-{self._rank}", os.O_CREAT | os.O_EXCL | os.O_WRONLY
            )
        except FileExistsError:  # started again
            return
        fired = {
            "rank": self._rank,
            "step": self._step,
            "pid": os.getpid(),
            "monotonic": time.monotonic(),
            "time": time.time(),
        }
        os.write(note, json.dumps(fired).encode())
        os.close(note)
        self._act()

    def _act(self) -> None:
        fault = self._fault
        if fault in ("kill", "two killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "kill supervisor":
            os.kill(os.getppid(), signal.SIGKILL)
            outlive_the_supervisor()
        elif fault == "kill both":
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "kill launcher":
            os.kill(_launcher(self._order["driver"]), signal.SIGKILL)
        elif fault == "stop":
            stand_still()
        elif fault == "raise":
            raise ArithmeticError(f"{MESSAGE} in rank {self._rank}")
        elif fault == "loop":
            endless_loop()
        elif fault == "lock":
            hold_the_lock()
        elif fault == "disk full":
            fill_the_disk(Path(self._order["disk"]))
        elif fault == "metrics full":
            fill_the_metrics()
        else:
            assert fault == "cut link", fault


class Delays:
    """Another order: `delays`, each of them `rank`, `step`, `at` and `seconds` to sleep there."""

    def __init__(self, order: dict) -> None:
        self._mine = [one for one in order["delays"] if one["rank"] == _own_rank()]
        self._step = 0

    def wraps(self) -> dict:
        """What is patched: (module, attribute) -> a decorator."""
        return {_STEPS: self._steps, _TIMELINE: self._activities}

    def _steps(self, plain):
        @functools.wraps(plain)
        def call(trainer, step, *args, **options):
            self._step = step
            self._sleep("step")
            return plain(trainer, step, *args, **options)

        return call

    def _activities(self, plain):
        @functools.wraps(plain)
        def begin(timeline, activity, run=None, *args, **options):
            plain(timeline, activity, run, *args, **options)
            if run in (None, "forward"):
                self._sleep(str(activity))

        return begin

    def _sleep(self, at: str) -> None:
        for delay in self._mine:
            if (delay["at"], delay["step"]) == (at, self._step):
                self._mine.remove(delay)
                time.sleep(delay["seconds"])
                break


def _own_rank() -> int:
    return next((int(os.environ[name]) for name in _RANKS if os.environ.get(name)), 0)


# ---- faults; a hung rank's stacks have to show these names --------------------------------------


def stand_still() -> None:
    """SIGSTOP."""
    os.kill(os.getpid(), signal.SIGSTOP)


def endless_loop() -> None:
    """Compute for ever."""
    while True:
        pass


def hold_the_lock() -> None:
    """Stay in C with Python's lock held: a regular expression that takes years."""
    re.fullmatch(r"(?:a|a)*b", "a" * 100)


def outlive_the_supervisor() -> None:
    """Stay, unless it is arranged that a rank ends with its supervisor."""
    while True:
        time.sleep(0.1)


def fill_the_disk(folder: Path) -> None:
    """Leave no byte on a file system."""
    with (folder / "ballast").open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def fill_the_metrics() -> None:
    """Have the file of metrics stand on a disk that is full."""
    full = os.open("/dev/full", os.O_WRONLY)
    for link in Path("/proc/self/fd").iterdir():
        try:
            is_metrics = link.readlink().name == "metrics.jsonl"
        except OSError:
            continue
        if is_metrics:
            os.dup2(full, int(link.name))


def _launcher(driver: int) -> int:
    """The process that the campaign has started, above this one."""
    pid = os.getppid()
    while (parent := _stat(pid)[1]) != driver:
        pid = parent
    return pid


def _stat(pid: int) -> tuple[str, int]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], int(fields[1])


# ---- a link that is cut -------------------------------------------------------------------------


def _cut_link(folder: Path, rank: int, other: int) -> None:
    """From now on no packet passes between two ranks, which are in a network namespace of their own."""
    own, theirs = (
        _connections(os.getpid()),
        _connections(int((folder / f"here-{other}").read_text())),
    )
    shared = {(a, b) for a, b in own if (b, a) in theirs}
    if not shared:
        raise RuntimeError(f"no connection between ranks {rank} and {other}")
    for a, b in sorted(shared | {(b, a) for a, b in shared}):
        words = f"iptables -w -A INPUT -p tcp --sport {a} --dport {b} -j DROP"
        subprocess.run(words.split(), check=True)


def _connections(pid: int) -> set[tuple[int, int]]:
    """(own port, other port) of the TCP connections of a process."""
    inodes = set()
    for number in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(number.readlink()))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes and fields[3] == "01":
                ports = (int(address.rpartition(":")[2], 16) for address in fields[1:3])
                found.add(tuple(ports))
    return found


# ---- patching -----------------------------------------------------------------------------------


def patch(wraps: dict) -> None:
    """Patch what is imported already, and the rest when it is."""
    late: dict = {}
    for (module, attribute), wrap in wraps.items():
        if module in sys.modules:
            _patch(sys.modules[module], attribute, wrap)
        else:
            late.setdefault(module, []).append((attribute, wrap))
    if late:
        sys.meta_path.insert(0, _Late(late))


def _patch(module, attribute: str, wrap) -> None:
    *path, name = attribute.split(".")
    owner = functools.reduce(getattr, path, module)
    if hasattr(
        owner, name
    ):  # not all classes have all of them; a fault that is not made is an error
        setattr(owner, name, wrap(getattr(owner, name)))


class _Late(importlib.abc.MetaPathFinder):
    """Patches modules when they are imported."""

    def __init__(self, wanted: dict) -> None:
        self._wanted = wanted

    def find_spec(self, fullname, path=None, target=None):
        """The spec that others find, with a loader that patches."""
        if fullname not in self._wanted:
            return None
        patches = self._wanted.pop(fullname)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return None
        loader, plain = spec.loader, spec.loader.exec_module

        def exec_module(module) -> None:
            plain(module)
            for attribute, wrap in patches:
                _patch(module, attribute, wrap)

        loader.exec_module = exec_module
        return spec
