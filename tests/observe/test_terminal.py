"""Whether a person watches, and writing to a terminal that may stand still."""

import io
import os
import pty
import time
from contextlib import suppress

import pytest

from tttscale.observe import terminal
from tttscale.observe.terminal import Terminal, is_watched, takes_more


class Tty(io.StringIO):
    def isatty(self):
        return True


def test_the_terminal_that_mpirun_plays_is_nobody(monkeypatch):
    monkeypatch.delenv("OMPI_COMM_WORLD_RANK", raising=False)
    assert is_watched(Tty())
    assert not is_watched(io.StringIO())
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "0")
    assert not is_watched(Tty())


def test_a_full_pipe_takes_no_more():
    reader, writer = os.pipe()
    assert takes_more(writer, 0)
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while os.write(writer, bytes(1 << 16)):
            pass
    began = time.monotonic()
    assert not takes_more(writer, 0.05)
    assert time.monotonic() - began >= 0.04
    os.read(reader, 1 << 16)
    assert takes_more(writer, 0)
    os.close(reader)
    os.close(writer)


@pytest.fixture
def opened():
    """The reading end of a terminal, and ours."""
    lead, follow = pty.openpty()
    with os.fdopen(follow, "w", encoding="latin-1") as stream:
        mine = Terminal(stream)
        yield lead, mine
        mine.close()
        mine.close()  # twice is fine
    os.close(lead)


def test_letters_that_it_lacks_are_written_as_codes(opened):
    lead, mine = opened
    assert (mine.isatty(), mine.encoding) == (True, "latin-1")
    assert mine.write("größer ✓") == 8
    assert os.read(lead, 100) == "größer ".encode("latin-1") + b"\\u2713"


def test_what_is_not_read_in_time_is_left_out_and_claimed(opened, monkeypatch):
    monkeypatch.setattr(terminal, "PATIENCE_SECONDS", 0.05)
    lead, mine = opened
    text = "x" * (1 << 20)
    began = time.monotonic()
    assert mine.write(text) == len(text)
    assert time.monotonic() - began < 10
    os.set_blocking(lead, False)
    assert 0 < len(os.read(lead, 1 << 21)) < len(text)


def test_what_is_no_terminal_is_refused(tmp_path):
    with (tmp_path / "a").open("w") as file, pytest.raises(OSError, match="Inappropriate ioctl"):
        Terminal(file)
