"""The command in a process of its own that need not import everything first: forked from one that has.

What it cannot show is how the interpreter starts, what is imported when, and what torchrun does: for that
start a fresh process.
"""

import atexit
import contextlib
import importlib
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.round import Ending
from tests.ranks import CONTEXT, free_port


class Started:
    """A process that leads a group of its own, and what it says."""

    def __init__(self, args):
        self.args = [str(word) for word in args]
        self._folder = tempfile.TemporaryDirectory()
        self.paths = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        for path in self.paths:
            path.touch()

    def said(self):
        """Stdout and stderr so far."""
        return [path.read_text() for path in self.paths]

    def wait(self, timeout_seconds=240):
        """Its end, as subprocess.run gives it."""
        if not self.ends_within(timeout_seconds):
            self.kill()
            raise subprocess.TimeoutExpired(self.args, timeout_seconds, *self.said())
        return subprocess.CompletedProcess(self.args, self.poll(), *self.said())

    def kill(self):
        """With all that it started."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.ends_within(60)


class Fresh(Started):
    """A program of any kind."""

    def __init__(self, args, environ=None):
        super().__init__(args)
        with self.paths[0].open("w") as stdout, self.paths[1].open("w") as stderr:
            self._process = subprocess.Popen(
                self.args,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environ or {})},
                start_new_session=True,
                preexec_fn=_listen_to_sigint,
            )
        self.pid = self._process.pid

    def poll(self):
        """The exit code; None while it runs."""
        return self._process.poll()

    def ends_within(self, seconds):
        """Whether it does."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.poll() is not None


class Command(Started):
    """`tttscale WORDS`. `before` is Python that runs first, to break something or to watch it."""

    def __init__(self, words, environ=None, before=""):
        super().__init__(["tttscale", *words])
        environ = {**os.environ, "OMP_NUM_THREADS": "1", **(environ or {})}
        self._start(self.args, environ, before, "tttscale.cli:main")

    def _start(self, args, environ, before, entry):
        given = (args, environ, self.paths, before, entry)
        self._process = CONTEXT.Process(target=_become, args=given, daemon=True)
        self._process.start()
        self.pid = self._process.pid

    def poll(self):
        """The exit code; None while it runs."""
        return self._process.exitcode

    def ends_within(self, seconds):
        """Whether it does."""
        self._process.join(seconds)
        return self.poll() is not None


class Module(Command):
    """`python -m MODULE WORDS`, such as a worker of a benchmark. Triton is as in tests: interpreted."""

    def __init__(self, module, words, environ=None, before=""):
        Started.__init__(self, [module, *words])
        self._start(self.args, {**os.environ, **(environ or {})}, before, module)

    def communicate(self):
        """Its output, as a process of subprocess gives it."""
        self.returncode = self.wait().returncode
        sys.stderr.write(self.said()[1])
        return self.said()[0], None


def start_worker(module, *arguments, env=None):
    """Stands in for `tttscale.bench.report.start_worker`."""
    return Module(module, arguments, env)


def run_lines(command, env, seconds, take, until=None):
    """Stands in for `benchmarks.gpu.round.run_lines`; the deadline is that of `Started.wait`."""
    assert until is None
    module, *words = command[command.index("-m") + 1 :]
    done = Module(
        module, words, env, "from tests.quick_interpreter import install\ninstall()"
    ).wait()
    for line in done.stdout.splitlines(keepends=True):
        take(line)
    return Ending(done.returncode, done.stderr)


def tttscale(*words, ranks=1, environ=None, before="", timeout_seconds=240):
    """Run the command to its end; several ranks as a launcher does that says all in the environment.

    Of several: the first exit code that is not 0, and what they said, one after the other.
    """
    port, started = str(free_port()), []
    for rank in range(ranks):
        place = {} if ranks == 1 else _place(rank, ranks, port)
        started.append(Command(words, {**(environ or {}), **place}, before))
    try:
        done = [command.wait(timeout_seconds) for command in started]
    finally:
        for command in started:
            command.kill()
    code = next((one.returncode for one in done if one.returncode), 0)
    texts = ("".join(getattr(one, name) for one in done) for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(done[0].args, code, *texts)


def _place(rank, ranks, port):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    numbers = map(str, (rank, ranks, rank, ranks))
    return {
        **dict(zip(names, numbers, strict=True)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


def _become(args, environ, paths, before, entry):
    """In the forked process; `entry` is a module to run, or a function in one."""
    import torch

    os.setsid()
    multiprocessing.current_process()._config["daemon"] = False  # it may have children of its own
    torch.set_num_threads(1)
    os.environ.clear()
    os.environ.update(environ)
    sys.argv = args
    for number, path in enumerate(paths, 1):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    _listen_to_sigint()
    exec(before, {})
    module, _, function = entry.partition(":")
    try:
        if function:
            getattr(importlib.import_module(module), function)()
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # the interpreter would; a process of multiprocessing does not


def _listen_to_sigint():
    """As the interpreter starts; a shell's background job, where tests may run, is started deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
