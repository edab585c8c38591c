"""One rule says which address and interface a host uses."""

import socket

import pytest

from tttscale.comm.interfaces import (
    ALL,
    Route,
    interface_for,
    listening_address,
    master_address,
    own_addresses,
    use_interface,
)
from tttscale.errors import LaunchError

TWO = {"lo": ["127.0.0.1", "::1"], "eth0": ["10.0.0.1", "fd00::1"], "ib0": ["10.1.0.1"], "down": []}
OWN = [address for rows in TWO.values() for address in rows]


@pytest.mark.parametrize(
    ("told", "one_host", "expected"),
    [
        (["10.1.0.1"], False, "10.1.0.1"),
        (["127.0.1.1", "10.0.0.1"], False, "10.0.0.1"),
        (["fd00::1"], False, "fd00::1"),
        (["10.0.0.1"], True, "127.0.0.1"),
        (["127.0.1.1"], False, ALL),
        ([], False, ALL),
        ([], True, "127.0.0.1"),
        (["10.9.9.9"], False, ALL),
    ],
)
def test_rank_0_listens_at_one_address_where_it_knows_it(told, one_host, expected):
    assert listening_address(told, OWN, one_host) == expected


def test_rank_0_learns_its_address_from_the_first_rank_of_another_host():
    here = [Route("", ""), Route("127.0.0.1", "127.0.1.1"), Route("10.0.0.1", "10.0.0.1")]
    assert master_address(here) == ""
    there = [Route("10.1.0.2", "10.1.0.1"), Route("10.0.0.3", "10.0.0.1")]
    assert master_address([*here, *there]) == "10.1.0.1"
    assert [route.is_remote for route in [*here, *there]] == [False] * 3 + [True] * 2


def test_the_interface_that_leads_to_rank_0_is_taken():
    found = interface_for("10.1.0.1", TWO, {})
    assert (found.name, found.address) == ("ib0", "10.1.0.1")
    assert interface_for("fd00::1", TWO, {}).name == "eth0"


def test_the_users_interface_wins():
    environ = {"GLOO_SOCKET_IFNAME": "eth0,ib0"}
    found = interface_for("10.1.0.1", TWO, environ)
    assert (found.name, found.address) == ("eth0", "10.0.0.1")
    use_interface(found, environ)
    assert environ == {"GLOO_SOCKET_IFNAME": "eth0,ib0", "NCCL_SOCKET_IFNAME": "=eth0"}
    environ = {"NCCL_SOCKET_IFNAME": "ib"}
    use_interface(found, environ)
    assert environ == {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "ib"}


@pytest.mark.parametrize(
    ("address", "asked", "said"),
    [
        ("10.1.0.1", "eth7", "GLOO_SOCKET_IFNAME=eth7: host {} has no interface of this name"),
        ("10.1.0.1", "down", "GLOO_SOCKET_IFNAME=down: host {} has no interface of this name"),
        ("10.9.9.9", "", "host {} is reached as 10.9.9.9, which none of its interfaces has"),
    ],
)
def test_an_interface_that_is_not_there(address, asked, said):
    with pytest.raises(LaunchError) as error:
        interface_for(address, TWO, {"GLOO_SOCKET_IFNAME": asked} if asked else {})
    message = str(error.value)
    assert message.startswith(said.format(socket.gethostname()))
    assert "lo 127.0.0.1, eth0 10.0.0.1, ib0 10.1.0.1" in message
    assert "GLOO_SOCKET_IFNAME" in message
    assert "\n" not in message


def test_this_hosts_addresses():
    found = own_addresses()
    assert any("127.0.0.1" in rows for rows in found.values())
    assert not any("%" in address for rows in found.values() for address in rows)
