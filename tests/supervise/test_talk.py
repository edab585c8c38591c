"""What supervisors say, and what is refused."""

from dataclasses import asdict

import pytest

from tests.supervise.ring import Op, member
from tttscale.supervise.talk import ago_of, ended_message, ended_of, text_of, verdict_of
from tttscale.supervise.verdict import Ended, Verdict

BEAT = member(0, Op("advance", "forward", 0, 1, 2), 3.0).sign.beat
VERDICT = Verdict(3, "node1", "step", 7, "disk full", 74)


def test_an_end_and_back():
    ended = Ended(3, "node1", -9, "", BEAT)
    assert ended_of(ended_message(ended), 3) == ended


def test_a_verdict_and_back():
    assert verdict_of(asdict(VERDICT)) == VERDICT


def test_a_text_is_printable():
    assert text_of("a\n\n b\t\x1b[2J") == "a b \\x1b[2J"
    assert len(text_of("x" * 100_000)) == 2000
    assert text_of(7) == "7"


@pytest.mark.parametrize("change", [{"code": "9"}, {"code": True}, {"code": 300}, {"last": [1]}])
def test_no_end(change):
    message = ended_message(Ended(3, "node1", -9, "", BEAT))
    with pytest.raises(ValueError, match=r"no |unpack"):
        ended_of(message | change, 3)


@pytest.mark.parametrize("message", [None, [], {}, 3, "x"])
def test_nothing_of_that_kind(message):
    with pytest.raises(ValueError, match="no end"):
        ended_of(message, 3)
    with pytest.raises(ValueError, match="no verdict"):
        verdict_of(message)


@pytest.mark.parametrize(
    "change", [{"rank": None}, {"rank": True}, {"step": 1.5}, {"exit_code": 0}, {"exit_code": 256}]
)
def test_no_verdict(change):
    with pytest.raises(ValueError, match="no "):
        verdict_of(asdict(VERDICT) | change)


def test_how_long_ago():
    assert ago_of(1.5) == 1.5
    assert ago_of(-3) == 0
    for value in (None, "1", True, float("nan"), float("inf"), []):
        with pytest.raises(ValueError, match="no number"):
            ago_of(value)
