"""Whatever befalls those who look on, the run ends as it would have, with all of its metrics."""

import errno
import io
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from tests.train.test_final import model  # noqa: F401 (a fixture)
from tests.train.test_recorder import POSITIONS, STEP, TOKENS
from tests.train.test_run_folder import settings
from tttscale.observe import Console, read_metrics
from tttscale.observe.guard import Guard, SteadyStream
from tttscale.train.recorder import RunRecorder

RECORD = {"step": 1, "loss": 2.0, "step_seconds": 1.0}


def test_the_first_failure_is_said_once_with_what_is_lost(caplog):
    guard = Guard("plots are left out", "and the rest is there")
    for _ in range(3):
        with guard():
            raise ZeroDivisionError("GET http://me:secret@host/x")
    (record,) = caplog.records
    assert record.getMessage() == (
        "plots are left out for the rest of this run: ZeroDivisionError: GET http://***@host/x; the run "
        "continues, and the rest is there"
    )


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit])
def test_the_end_of_the_process_passes(kind):
    guard = Guard("plots", "and")
    with pytest.raises(kind), guard():
        raise kind
    assert guard.is_on


class Broken(io.StringIO):
    """A stream of which one method raises."""

    def __init__(self, error, method="write", encoding="utf-8"):
        super().__init__()
        self._error, self._method, self._encoding = error, method, encoding

    def _maybe(self, method):
        if method == self._method:
            raise self._error

    @property
    def encoding(self):
        return self._encoding

    def write(self, text):
        self._maybe("write")
        return super().write(text)

    def flush(self):
        self._maybe("flush")

    def isatty(self):
        self._maybe("isatty")
        return self._method == "bar"


ERRORS = [
    OSError(errno.ENOSPC, "No space left on device"),
    BrokenPipeError(errno.EPIPE, "Broken pipe"),
    BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    ValueError("I/O operation on closed file"),
    UnicodeEncodeError("latin-1", "x", 0, 1, "no"),
    MemoryError(),
    RecursionError(),
    SystemExit(3),
]


@pytest.mark.parametrize("method", ["write", "flush", "isatty"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_console_that_raises_anything_is_quiet_from_then_on(error, method, caplog):
    console = Console(3, Broken(error, method))
    for _ in range(2):
        console.log("x")
        console.step(RECORD)
    console.close()
    assert len(caplog.records) == 1
    assert "the console is quiet for the rest of this run" in caplog.text
    assert "its metrics are in metrics.jsonl" in caplog.text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_letters_that_the_console_lacks_are_written_as_codes(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(3, stream)
    console.log("runs/запуск ✓ \udcff")
    console.step(RECORD)
    stream.seek(0)
    lines = stream.read().splitlines()
    assert lines[0].startswith("runs/")
    assert len(lines) == 3


@pytest.mark.parametrize("record", [{}, {"step": "x"}, {"step": 1, "loss": "low"}, {"step": 2.5}])
def test_a_record_that_cannot_be_shown(record):
    console = Console(3, io.StringIO())
    console.step(record)
    console.close()


@pytest.mark.parametrize(
    "environ",
    [{"TERM": "dumb"}, {"TERM": "no-such"}, {"COLUMNS": "1"}, {"COLUMNS": "x", "LINES": "0"}],
)
def test_strange_terminals(environ, monkeypatch, caplog):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    lead, follow = pty.openpty()
    with os.fdopen(follow, "w") as stream:
        console = Console(3, stream)
        console.log("[red]not a style[/] [/wrong]")
        console.step(RECORD)
        console.close()
    shown = b""
    while b"not" not in shown and select.select([lead], [], [], 20)[0]:
        shown += os.read(lead, 65536)
    os.close(lead)
    assert b"not" in shown
    assert not caplog.records


@pytest.mark.parametrize("watched", [False, True])
def test_a_reader_that_stands_still_holds_up_nothing(watched, monkeypatch):
    """A full pipe, and a terminal after Ctrl-S: lines are left out and counted."""
    monkeypatch.setattr("tttscale.observe.terminal.PATIENCE_SECONDS", 0.05)
    reader, writer = pty.openpty() if watched else os.pipe()
    with os.fdopen(writer, "w") as stream:
        console = Console(10_000, stream)
        began = time.monotonic()
        for step in range(1, 3000):
            console.step({**RECORD, "step": step})
        assert time.monotonic() - began < 60
        read = b""
        while not read.count(b"left out while they were not read") and len(read) < 1 << 22:
            read += os.read(reader, 65536)
            console.log("read again")
        assert b"lines left out while they were not read)" in read
        os.set_blocking(reader, False)
        console.close()
    os.close(reader)


def fail(*_, **__):
    raise ZeroDivisionError


@pytest.mark.parametrize(
    "broken",
    [
        "tttscale.train.recorder.plot_run",
        "tttscale.observe.console.Console._write",
        "tttscale.observe.console.Console._line",
        "tttscale.observe.wandb_sink.threading.Thread.start",
        "tttscale.observe.wandb_sink.queue.Queue.put_nowait",
        "tttscale.observe.plots.new_axes",
        "tttscale.observe.plots.read_metrics",
    ],
)
def test_no_observer_ends_a_run(broken, tmp_path, model, monkeypatch):  # noqa: F811
    config = settings(tmp_path)
    offline = config.logging.wandb.model_copy(update={"mode": "offline"})
    logging = config.logging.model_copy(update={"wandb": offline})
    config = config.model_copy(update={"logging": logging})
    monkeypatch.setattr(broken, fail)
    monkeypatch.setitem(sys.modules, "wandb", None)
    recorder = RunRecorder(config, TOKENS)
    recorder.step(STEP)
    recorder.finish(model, POSITIONS)
    recorder.close()
    assert (recorder.folder / "final" / "config.json").exists()
    monkeypatch.undo()
    assert read_metrics(recorder.folder / "metrics.jsonl") == [STEP]


def test_a_steady_stream_says_once_that_nobody_reads(caplog):
    stream = SteadyStream(Broken(ERRORS[0]), "stdout")
    assert stream.write("abc") == 3
    stream.writelines(["a", "b"])
    stream.flush()
    assert isinstance(stream.trouble, OSError)
    assert [r.getMessage() for r in caplog.records] == [
        "stdout is not written any more: No space left on device; the command continues"
    ]


def shell(line, **environ):
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, env={**os.environ, **environ}, timeout=120
    )


PYTHON = sys.executable


@pytest.mark.parametrize(
    "stream", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "> /dev/full", "2> /dev/full", "| true"]
)
def test_a_build_ends_well_whoever_reads(tmp_path, stream):
    (tmp_path / "text.txt").write_text("some text. " * 2000)
    line = (
        f"set -o pipefail; cd {tmp_path} && {PYTHON} -m tttscale data build store text.txt {stream}"
    )
    done = shell(line)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr + done.stdout
    looked = shell(f"cd {tmp_path} && {PYTHON} -m tttscale data info store")
    assert looked.returncode == 0, looked.stderr


def test_a_result_that_cannot_be_written_is_an_error_but_not_one_that_nobody_reads(tmp_path):
    (tmp_path / "text.txt").write_text("some text. " * 2000)
    tttscale = f"cd {tmp_path} && {PYTHON} -m tttscale data"
    assert shell(f"{tttscale} build store text.txt").returncode == 0
    full = shell(f"{tttscale} info store > /dev/full")
    assert full.returncode == 65
    assert b"stdout: No space left on device. Send it where there is room." in full.stderr
    nobody = shell(f"set -o pipefail; {tttscale} info store | true")
    assert nobody.returncode == 0, nobody.stderr
    assert b"Traceback" not in nobody.stderr


def test_a_path_that_the_terminal_cannot_show(tmp_path):
    (tmp_path / "запуск.txt").write_text("some text. " * 2000)
    line = f"cd {tmp_path} && {PYTHON} -m tttscale data build магазин запуск.txt"
    done = shell(line, PYTHONIOENCODING="latin-1", PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert b"\\u043c" in done.stdout
