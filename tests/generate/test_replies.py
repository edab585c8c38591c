"""Replies on stdout, and lines that are read: whatever goes wrong with one, the next can come."""

import io
import sys

import pytest

from tttscale.errors import ConfigError, DataError
from tttscale.generate.replies import Writer, converse, read_text


class Stdout(io.StringIO):
    """A stream that takes so many characters and then notes a trouble, as the command's does."""

    def __init__(self, room, trouble):
        super().__init__()
        self._room, self._then, self.trouble = room, trouble, None

    def write(self, text):
        if len(self.getvalue()) + len(text) > self._room:
            self.trouble = self._then
            return len(text)
        return super().write(text)


class Session:
    """Notes what it reads."""

    def __init__(self):
        self.texts = []

    def read(self, text, told):
        if text == b"bad":
            raise DataError("cannot be encoded")
        if text == b"stop":
            raise KeyboardInterrupt
        self.texts.append(text)
        told(len(text), len(text))


@pytest.mark.parametrize("streams", [True, False])
def test_a_reply(capsys, streams):
    write = Writer(streams)
    write.reply(iter(["a", "b\n", "c"]))
    write.check()
    assert capsys.readouterr().out == "ab\nc\n"


@pytest.mark.parametrize("trouble", [BrokenPipeError(), OSError(28, "No space left on device")])
def test_a_reader_that_has_gone_ends_a_reply(monkeypatch, trouble):
    out, taken = Stdout(3, trouble), []
    monkeypatch.setattr(sys, "stdout", out)
    write = Writer(True)
    write.reply(text for text in "abcdefgh" if not taken.append(text))
    assert out.getvalue() == "abc"
    assert len(taken) == 4
    if isinstance(trouble, BrokenPipeError):
        write.check()
    else:
        with pytest.raises(DataError, match="stdout: No space left"):
            write.check()


def test_a_conversation(monkeypatch, capsys):
    lines = io.BytesIO(b"one\r\nbad\nstop\n\ntwo")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines))
    session, replies = Session(), []

    def reply():
        replies.append(len(session.texts))
        if len(replies) == 2:
            raise ConfigError("the prompt is empty")

    converse(session, reply)
    assert session.texts == [b"one", b"", b"two"]
    assert replies == [1, 2, 3]
    said = capsys.readouterr().err
    assert said == "error: cannot be encoded\nstopped\nerror: the prompt is empty\n"


def test_progress_of_a_long_text_is_shown(capsys):
    session = Session()
    read_text(session, b"x" * 10)
    assert capsys.readouterr().err == ""
    read_text(session, b"x" * 5000)
    assert session.texts[-1] == b"x" * 5000
