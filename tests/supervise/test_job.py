"""All supervisors of a job get the same verdict: over real sockets, with simulated pages and clock."""

import json
import os
import socket
import sys

import pytest

from tests.supervise.jobs import Star, Task
from tttscale.cluster.ranks import Ranks
from tttscale.supervise.deadline import Rules
from tttscale.supervise.job import Job, _print
from tttscale.supervise.page import Page, Phase


def test_the_cause_beats_a_consequence_that_came_first(star):
    star[1].fail(71, "rank 1 lost another rank: connection reset")
    star.go(0.5)
    star[2].fail(-9)
    star.go(10)
    verdict = star.verdict()
    assert (verdict.rank, verdict.exit_code) == (2, 71)
    assert verdict.cause.startswith("killed by SIGKILL (perhaps for lack of memory")
    assert (verdict.phase, verdict.step) == ("step", 3)
    assert verdict.line().startswith("FAILED rank=2 host=")


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("code", [-9, -11, 65, 70, 74, 76, 1])
def test_any_rank_by_any_cause(star, rank, code):
    star[rank].fail(code, "" if code < 0 else "the cause")
    for other in {0, 1, 2, 3} - {rank}:
        star.go(0.1)
        star[other].fail(71, f"rank {other} lost another rank")
    began = star.clock.now
    star.go(10)
    verdict = star.verdict()
    assert verdict.rank == rank
    assert verdict.exit_code == {-9: 71, -11: 71, 1: 70}.get(code, code)
    assert star.clock.now - began < 3


def test_of_two_deaths_the_first(star):
    star[3].fail(-9)
    star.go(0.3)
    star[1].fail(-9)
    star.go(10)
    assert star.verdict().rank == 3


def test_ranks_that_still_run_get_the_verdict(star):
    star[1].fail(74, "disk full")
    star.go(10)
    assert star.verdict().exit_code == 74
    assert all(one.verdict for one in star.all)


def test_a_supervisor_that_is_killed(star):
    """Its kernel closes its connections."""
    star[2].job.side.spoke._wire.close()
    star[2].gone = True
    star[1].fail(71, "rank 1 lost rank 2")
    star.go(10)
    verdict = star.verdict()
    assert (verdict.rank, verdict.cause, verdict.exit_code) == (2, "host or supervisor gone", 71)


def test_rank_0s_supervisor_is_killed(star):
    star[0].job.side.hub.close()
    star[0].gone = True
    star[3].fail(71, "rank 3 lost rank 0")
    star.go(10)
    verdict = star.verdict()
    assert (verdict.rank, verdict.cause, verdict.exit_code) == (0, "host or supervisor gone", 71)
    assert verdict.host == socket.gethostname()


def test_rank_0s_supervisor_is_killed_and_a_rank_knows_a_cause(star):
    star[0].job.side.hub.close()
    star[0].gone = True
    star[3].fail(74, "disk full")
    star.go(10)
    assert star[3].verdict.rank == 3
    assert star[1].verdict.rank == 0


@pytest.mark.parametrize("rank", range(4))
def test_a_host_that_falls_silent(star, rank):
    """Nothing is closed: its cable is cut, or it is frozen with all that runs on it."""
    star[rank].gone = True
    began = star.clock.now
    star.go(60)
    assert star.verdict().rank == rank
    assert star.verdict().cause == "host or supervisor gone"
    assert 15 < star.clock.now - began < 30


def test_two_ranks_of_a_host_are_gone(star):
    for rank in (2, 3):
        star[rank].job.side.spoke._wire.close()
        star[rank].gone = True
    star.go(10)
    assert star.verdict().rank == 2
    assert star.verdict().cause == "host or supervisor gone, with rank 3"


def test_only_consequences_are_called_so(star):
    star[2].page.say("watch", Rules(60, 4).text())
    star[0].page.say("watch", Rules(60, 4).text())
    star[2].page.beat("wait", "forward", Task(chunk=6), 1)
    star[2].fail(71, "rank 2 lost another rank: connection timed out")
    star.go(0.2)
    star[1].fail(71, "sequence rank 1 lost rank 2: connection timed out")
    star.go(10)
    verdict = star.verdict()
    assert verdict.cause.startswith("link between rank 1 and rank 2, or one of them: ")
    assert verdict.exit_code == 71


def test_ranks_that_end_as_they_should_are_no_culprits(star):
    for rank in (1, 2, 0, 3):
        star[rank].job.finished(0)
        star.go(0.5)
    assert not any(one.verdict for one in star.all)
    assert not star[1].job.side.is_settled  # rank 0 may still hear of a failure
    assert star[0].job.side.is_settled
    for rank in range(4):
        assert star[rank].job.settle(5) is None
        star[rank].job.close()
        star[rank].gone = True
        star.go(1)


def test_ranks_that_are_done_hear_of_a_failure_at_the_very_end(star):
    for rank in (1, 2):
        star[rank].job.finished(0)
    star.go(20)
    star[0].fail(-9)
    star.go(5)
    assert star.verdict().rank == 0
    assert all(one.verdict for one in star.all)


def test_a_rank_that_ends_first_does_not_hide_a_later_failure(star):
    star[1].job.finished(0)
    star.go(1)
    star[1].job.close()
    star[1].gone = True
    star.go(5)
    assert not star[0].verdict
    star[3].fail(-9)
    star.go(5)
    assert star.verdict().rank == 3


def test_rank_0_leaves_before_others(star):
    star[0].job.finished(75)
    star.go(1)
    star[0].job.close()
    star[0].gone = True
    star.go(30)
    assert not any(one.verdict for one in star.all)
    star[2].fail(70, "late")
    star.go(5)
    assert star[2].verdict.rank == 2
    assert star[1].verdict is None


def test_a_single_rank_needs_no_connection(monkeypatch):
    with Star(1, monkeypatch) as star:
        assert star[0].page.text("hub") == ""
        star[0].page.enter(Phase.STEP, 1)
        star.go(300)
        assert not star[0].verdict
        star[0].page.enter(Phase.STEP, 2)
        star[0].page.beat("advance", "forward", Task(), 0)
        star.go(3000)
        assert (star[0].verdict.rank, star[0].verdict.exit_code) == (0, 72)


def test_a_single_rank_that_is_killed(monkeypatch):
    with Star(1, monkeypatch) as star:
        star[0].fail(-9)
        star[0].poll()
        assert star[0].verdict.cause.startswith("killed by SIGKILL")


# ---- strangers -----------------------------------------------------------------------------------


def place(star):
    found = json.loads(star[0].page.text("hub"))
    return found["addresses"][0], found["port"]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(100_000),
        b"x" * 1_000_000,
        b"[" * 5000 + b"\n",
        b"{}\n" * 500,
        b'{"hello": 2, "nonce": "a", "proof": "b", "host": "c"}\n',
        b'{"hello": 99, "nonce": "a", "proof": "b", "host": "c"}\n',
        b'{"hello": true, "nonce": 1, "proof": [], "host": {}}\n',
        b'{"ended": {"code": 74, "cause": "no", "host": "x", "last": []}, "ago": 0}\n',
        b"null\n",
        b"",
    ],
    ids=range(11),
)
def test_strangers_do_no_harm(star, data):
    with socket.create_connection(place(star)) as stranger:
        stranger.setblocking(False)
        for _ in range(20):
            try:
                data = data[stranger.send(data) :] if data else data
            except OSError:
                break
            star.go(0.1)
        star.go(15)
        assert not any(one.verdict for one in star.all)
        assert len(star[0].job.side.hub._peers) == 3
    star[3].fail(65, "bad data")
    star.go(5)
    assert star.verdict().rank == 3


def test_many_strangers_are_bounded(star):
    found = []
    for _ in range(200):
        found.append(socket.create_connection(place(star)))
        star.go(0.1)
        assert len(star[0].job.side.hub._peers) <= 70
    for one in found:
        one.close()
    star.go(1)
    assert len(star[0].job.side.hub._peers) == 3


def test_another_token_or_secret_is_turned_away(monkeypatch):
    with Star(3, monkeypatch, hosts=True) as star:
        text = json.loads(star[0].page.text("hub"))
        star[1].page.say("hub", json.dumps(text))
        star[2].page.say("hub", json.dumps(text | {"token": "0" * 32}))
        star.go(40)
        assert star[0].job.court.members[1].state == "here"
        assert star[0].job.court.members[2].state == "unseen"
        (said,) = star[2].said
        assert said.startswith("WARNING: the supervisor of rank 2")
        assert text["token"] not in said
        # It still judges its own rank.
        star[2].fail(65, "bad data")
        star.go(5)
        assert star[2].verdict.rank == 2


def test_another_program_in_the_hubs_place_learns_nothing(monkeypatch):
    """It gets a proof that is worth nothing elsewhere, and is not believed."""
    with Star(2, monkeypatch, hosts=True) as star, socket.create_server(("127.0.0.1", 0)) as other:
        text = json.loads(star[0].page.text("hub"))
        star[1].page.say("hub", json.dumps(text | {"port": other.getsockname()[1]}))
        star.go(1)
        peer, _ = other.accept()
        peer.sendall(b'{"nonce": "0"}\n')
        star.go(1)
        heard = peer.recv(4096)
        assert text["token"].encode() not in heard
        peer.sendall(b'{"proof": "0"}\n{"verdict": {"rank": 1}}\n')
        star.go(1)
        assert star[1].verdict is None
        peer.close()


def test_no_secret_is_ever_printed(monkeypatch):
    monkeypatch.setenv("TTTSCALE_JOB_SECRET", "a-secret-of-a-job")
    with Star(2, monkeypatch) as star:
        star.meet()
        text = star[0].page.text("hub")
        assert "a-secret-of-a-job" not in text
        assert "token" not in repr(star[0].job.side.hub._proofs.__dict__)
        star[1].fail(70, "x")
        star.go(5)
        assert star.verdict().rank == 1


def test_a_cause_is_one_line_that_a_terminal_does_not_obey(star):
    star[2].fail(65, "first\nsecond \x1b[2J" + "x" * 100_000)
    star.go(5)
    cause = star.verdict().cause
    assert cause.startswith("first second \\x1b[2Jxxx")
    assert len(cause) < 2100


# ---- many ----------------------------------------------------------------------------------------


def test_64_ranks(monkeypatch):
    with Star(64, monkeypatch) as star:
        star.meet()
        star[63].fail(71, "rank 63 lost rank 62")
        star[0].fail(71, "rank 0 lost rank 63")
        star.go(0.4)
        star[40].fail(-9)
        star.go(10)
        assert star.verdict().rank == 40


def test_a_rank_that_fails_before_others_come(monkeypatch):
    with Star(3, monkeypatch, hosts=True) as star:
        star[0].fail(65, "no such store")
        star.go(1.5)
        assert star[1].verdict is None
        text = star[0].page.text("hub")
        for rank in (1, 2):
            star[rank].page.say("hub", text)
            star.go(1.5)
        assert star.verdict().cause == "no such store"


def test_the_ranks_process_keeps_no_socket():
    ranks = Ranks(0, 2, 0, 2, "127.0.0.1", 29500, "environment", True)
    job = Job(Page(), ranks)
    port = job.side.hub._listener.getsockname()[1]
    job.drop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 5)


def test_only_who_may_be_waited_for_at_the_meeting_is_stood_in_for(monkeypatch):
    with Star(3, monkeypatch, hosts=True) as star:
        star[0].fail(65, "no such store")
        star[1].page.enter(Phase.MEET)
        star[1].fail(-9)
        star[2].page.enter(Phase.BUILD)
        star[2].fail(-9)
        star.go(1.2)
        assert not any(one.sought for one in star.all)
        star.go(1)
        assert star[0].sought == [star[0].page.text("hub")]
        assert star[1].sought == [""]
        assert star[2].sought == []


def test_a_hub_that_was_sought_gets_the_report(monkeypatch):
    """A rank failed before it knew the hub; another process finds that, and all get the same verdict."""
    answers = [None, None, "place"]

    class Found:
        def poll(self, now):
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            return star[0].page.text("hub") if answer == "place" else answer

        def close(self):
            pass

    with Star(3, monkeypatch, hosts=True) as star:
        monkeypatch.setattr(star[1].job.side, "_seek", lambda own, now: Found())
        star[2].page.say("hub", star[0].page.text("hub"))
        star[1].fail(65, "no such store")
        star.go(10)
        assert star.verdict().cause == "no such store"
        assert star.verdict().rank == 1


def test_a_hub_that_is_not_found_leaves_the_own_verdict(monkeypatch):
    class Missed:
        def poll(self, now):
            return "" if now > 5 else None

        def close(self):
            pass

    with Star(2, monkeypatch, hosts=True) as star:
        monkeypatch.setattr(star[1].job.side, "_seek", lambda own, now: Missed())
        star[1].fail(65, "no such store")
        star.go(4)
        assert star[1].verdict is None
        star.go(4)
        assert (star[1].verdict.rank, star[1].verdict.exit_code) == (1, 65)


def test_on_one_host_the_hub_is_known_from_the_first_moment_on(monkeypatch):
    """No rank has said where it is, and one dies while it imports."""
    with Star(4, monkeypatch) as star:
        star[2].fail(-9)
        star.go(5)
        assert star.verdict().rank == 2
        assert not any(one.sought for one in star.all)


def test_all_ranks_fail_alike_at_once(monkeypatch):
    with Star(4, monkeypatch) as star:
        for one in star.all:
            one.fail(65, "data.store: no such folder")
        began = star.clock.now
        star.go(5)
        assert (star.verdict().rank, star.verdict().exit_code) == (0, 65)
        assert star.clock.now - began < 2


def test_a_hub_of_an_earlier_start_is_left_for_the_right_one(monkeypatch):
    with Star(2, monkeypatch, hosts=True) as star:
        text = json.loads(star[0].page.text("hub"))
        star[1].page.say("hub", json.dumps(text | {"port": 1}))
        star.go(3)
        star[1].page.say("hub", json.dumps(text))
        star.go(3)
        assert star[1].job.side.spoke.joined


def test_a_rank_that_has_ended_does_not_seek_for_long(monkeypatch):
    """A run that had nothing left to do: the hub is gone before this supervisor has found it."""
    with Star(2, monkeypatch, hosts=True) as star:
        text = json.loads(star[0].page.text("hub"))
        star[1].page.say("hub", json.dumps(text | {"port": 1}))
        star[1].job.finished(0)
        star.go(3)
        assert not star[1].job.side.is_settled
        star.go(4)
        assert star[1].job.side.is_settled
        assert star[1].said == []


def test_a_line_that_nobody_reads_ends_nothing(monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

        flush = write

    monkeypatch.setattr(sys, "stderr", Closed())
    _print("no progress for 61 s")
