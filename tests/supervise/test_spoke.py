"""How a supervisor finds the hub, and does without it; what it says then is in test_job.py."""

import json

import pytest

from tests.supervise.jobs import Star
from tttscale.supervise.spoke import CONNECT_SECONDS, Link


@pytest.fixture
def star(monkeypatch):
    with Star(2, monkeypatch, hosts=True) as found:
        yield found


def told(star, **change):
    star[1].page.say("hub", json.dumps(json.loads(star[0].page.text("hub")) | change))


def test_the_second_address_is_the_right_one(star):
    told(star, addresses=["127.0.0.9", "not an address", "::1", "127.0.0.1"])
    star.go(20)
    assert star[1].job.side.spoke.link is Link.JOINED


def test_nobody_answers(star):
    told(star, port=1)
    star.go(CONNECT_SECONDS + 2)
    assert star[1].job.side.spoke.link is Link.OVER
    assert len(star[1].said) == 1
    assert "not be named" in star[1].said[0]
    star.go(100)
    assert len(star[1].said) == 1
    assert not star[1].verdict


@pytest.mark.parametrize("text", ["{", "[]", "{}", "no"])
def test_a_place_that_is_none(star, text):
    star[1].page.say("hub", text)
    star.go(2)
    assert star[1].job.side.spoke is None
    told(star)
    star.go(2)
    assert star[1].job.side.spoke.link is Link.JOINED


def test_a_rank_that_ended_before_the_hub_was_known(star):
    star[1].fail(74, "disk full")
    star.go(0.3)
    told(star)
    star.go(5)
    assert star.verdict().cause == "disk full"


def test_signs_are_sent_once_a_second_whether_or_not_they_say_something_new(star):
    told(star)
    star.go(2)
    spoke, sent = star[1].job.side.spoke, []
    send = spoke._wire.send
    spoke._wire.send = lambda message: (sent.append(message), send(message))
    for _ in range(10):
        star[1].page.beat("advance")
        star.go(1)
    assert 9 <= len(sent) <= 11
    sent.clear()
    star.go(10)
    assert 9 <= len(sent) <= 11
