"""The progress of a build: a bar for people, a line now and then in a log, nothing on other ranks."""

import pytest

from tttscale.data import progress
from tttscale.data.progress import Progress, shown_progress

HALF = Progress("tokenize", 50, 100, documents=1200, text_bytes=4_000_000, tokens=1_000_000)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_30_seconds(clock, capsys):
    with shown_progress() as show:
        for seconds in (1, 29, 31, 32, 62):
            clock[0] = 100.0 + seconds
            show(HALF)
        clock[0] = 200.0
        show(Progress("write", 3, 7))
        clock[0] = 300.0
        show(Progress("verify", 0, 0))
    assert capsys.readouterr().err.splitlines() == [
        "tokenizing: 50.0%, 1,200 documents, 1,000,000 tokens, 0.1 MB/s",
        "tokenizing: 50.0%, 1,200 documents, 1,000,000 tokens, 0.1 MB/s",
        "writing shards: 42.9%",
        "verifying: 0.0%",
    ]


def test_other_ranks_are_silent(clock, capsys):
    with shown_progress(shown=False) as show:
        clock[0] += 1000
        show(HALF)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    with shown_progress() as show:
        show(HALF)
        show(Progress("write", 1, 4))
    said = capsys.readouterr().err
    for words in ("tokenizing", "50.0%", "1.0M tokens", "writing shards", "25.0%"):
        assert words in said


def test_a_bar_that_fails_does_not_end_a_build(monkeypatch, caplog):
    def broken(self, state):
        raise OSError("no such terminal")

    monkeypatch.setattr(progress._Log, "show", broken)
    with shown_progress() as show:
        show(HALF)
        show(HALF)
    (said,) = caplog.messages
    assert said.startswith("progress is not shown for the rest of this run: OSError: no such term")
