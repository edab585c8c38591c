"""Messages over sockets that never block; and proofs."""

import json
import socket

import pytest

from tttscale.cluster.job_secret import JobSecret
from tttscale.supervise.wire import LINE_BYTES, STRANGER_BYTES, Closed, Connection, Proofs


@pytest.fixture
def ends():
    listener = socket.create_server(("127.0.0.1", 0))
    one = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    listener.close()
    found = Connection(one), Connection(other)
    yield found
    for end in found:
        end.close()


def received(connection, count):
    found = []
    for _ in range(10_000):
        found += connection.receive()
        if len(found) >= count:
            return found
    pytest.fail("messages are missing")


def send_much(connection, count, size):
    for _ in range(count):
        connection.send({"text": "x" * size})


def test_messages_come_in_order(ends):
    messages = [{"number": n, "text": "ä\n" * n} for n in range(20)]
    for message in messages:
        ends[0].send(message)
    assert received(ends[1], 20) == messages
    assert ends[1].receive() == []
    assert not ends[0].pending


def test_an_end_that_does_not_read_is_bounded(ends):
    with pytest.raises(Closed, match="does not read"):
        send_much(ends[0], 10_000, 10_000)
    assert ends[0].pending


def test_what_was_said_before_the_end_is_heard(ends):
    ends[0].send({"last": 1})
    ends[0].close()
    assert received(ends[1], 1) == [{"last": 1}]
    with pytest.raises(Closed):
        ends[1].receive()
    with pytest.raises(Closed):
        send_much(ends[1], 100, 1000)


@pytest.mark.parametrize(
    "data",
    [b"x\n", b"[1]\n", b"3\n", b"\n", b"\xff\n", b"[" * 900 + b"\n", b"y" * (STRANGER_BYTES + 1)],
    ids=range(7),
)
def test_no_message(ends, data):
    ends[0]._peer.sendall(data)
    with pytest.raises(Closed):
        received(ends[1], 1000)


def test_friends_may_say_more(ends):
    ends[1].longest_bytes = LINE_BYTES
    ends[0].send({"text": "x" * 30_000})
    assert len(received(ends[1], 1)[0]["text"]) == 30_000


def test_proofs():
    one = Proofs(JobSecret(b"secret-of-job", ""), "token", 4)
    proof = one.make("spoke", 2, "a", "b")
    assert Proofs(JobSecret(b"secret-of-job", ""), "token", 4).hold(proof, "spoke", 2, "a", "b")
    others = [
        (Proofs(JobSecret(b"secret-of-jo", ""), "token", 4), "spoke", 2, "a", "b"),
        (Proofs(JobSecret(b"secret-of-job", ""), "tokem", 4), "spoke", 2, "a", "b"),
        (Proofs(JobSecret(b"secret-of-job", ""), "token", 5), "spoke", 2, "a", "b"),
        (one, "hub", 2, "a", "b"),
        (one, "spoke", 3, "a", "b"),
        (one, "spoke", 2, "b", "a"),
    ]
    for proofs, *words in others:
        assert not proofs.hold(proof, *words)
    for wrong in (None, 3, [], "", proof[:-1]):
        assert not one.hold(wrong, "spoke", 2, "a", "b")
    assert "secret" not in json.dumps(proof)
