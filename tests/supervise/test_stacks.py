"""Which frames are shown; how ranks write them: test_supervisor.py."""

import os
from pathlib import Path

import pytest

from tttscale.supervise.stacks import Stacks, stacks_file

MAIN = 'Thread 0x1 (most recent call first):\n  File "main.py", line 3 in wait\n  File "m.py", line 1 in f\n'
OTHER = 'Thread 0x2 (most recent call first):\n  File "other.py", line 9 in run\n'
CURRENT = "Current " + OTHER.replace("Thread", "thread")
WAIT = ['File "main.py", line 3 in wait', 'File "m.py", line 1 in f']


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        (OTHER + "\n" + MAIN, WAIT),
        (OTHER + "\nCurrent " + MAIN.replace("Thread", "thread"), WAIT),
        (CURRENT + "\n" + MAIN, WAIT),
        (MAIN + "\n" + OTHER + "\n" + MAIN, WAIT),
        (
            "Fatal Python error: Segmentation fault\n\n" + CURRENT + "\n" + MAIN,
            ['File "other.py", line 9 in run'],
        ),
        ("", []),
    ],
    ids=["main last", "main handles it", "another handles it", "asked twice", "crash", "none"],
)
def test_the_innermost_frames(text, frames):
    stacks = Stacks()
    os.write(stacks._file, text.encode())
    assert stacks.innermost() == frames
    assert stacks.text() == text


def test_their_file():
    assert stacks_file(Path("run"), 3) == Path("run/stacks-rank-3.txt")
