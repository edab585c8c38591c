"""Where supervisors meet."""

import socket

import pytest

from tttscale.cluster.ranks import Ranks
from tttscale.supervise.place import Place, listen


def ranks(address, one_host):
    return Ranks(0, 4, 0, 2, address, 29500, "environment", one_host)


@pytest.mark.parametrize(
    ("address", "one_host", "addresses", "bound"),
    [
        ("10.1.2.3", True, ("127.0.0.1",), "127.0.0.1"),
        ("localhost", False, ("127.0.0.1",), "127.0.0.1"),
        ("127.0.0.1", False, ("127.0.0.1",), "127.0.0.1"),
        ("192.0.2.7", False, (), None),  # another host's: a rank knows its own address
    ],
)
def test_listens_where_the_job_is(address, one_host, addresses, bound):
    listener, found = listen(ranks(address, one_host))
    with listener:
        assert found == addresses
        if bound:
            assert listener.getsockname()[0] == bound
        port = listener.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 10).close()


def test_an_address_of_this_host_is_the_only_one(monkeypatch):
    """As if 127.0.0.2 were an address that other hosts reach."""
    from tttscale.supervise import place

    monkeypatch.setattr(place, "_addresses_of", lambda name: ["192.0.2.7", "127.0.0.2"])
    listener, found = listen(ranks("node1", False))
    with listener:
        assert found == ("127.0.0.2",)
        assert listener.getsockname()[0] == "127.0.0.2"


def test_a_text_and_back():
    place = Place(("127.0.0.1", "::1"), 4000, "t" * 32)
    assert Place.of(place.text()) == place
    assert "tttt" not in repr(place)
    more = place.with_addresses("", "10.0.0.1", "::1")
    assert more.addresses == ("127.0.0.1", "::1", "10.0.0.1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "3",
        '{"addresses": [], "port": 0, "token": "t"}',
        '{"addresses": 3, "port": 1, "token": "t"}',
        '{"addresses": [], "port": 1, "token": 2}',
    ],
)
def test_no_place(text):
    with pytest.raises(ValueError, match=r"no place|no port|it is empty|indices"):
        Place.of(text)
