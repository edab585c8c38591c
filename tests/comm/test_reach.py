"""What hosts say to each other before torch tries: the same line on all ranks. Ranks are threads here."""

import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest
from torch.distributed import HashStore

from tttscale.cluster.ranks import Ranks
from tttscale.comm import reach
from tttscale.comm.interfaces import Route
from tttscale.errors import LaunchError

HERE = Ranks(0, 3, 0, 1, "127.0.0.1", 29500, "environment")


def on_all_ranks(work):
    """The result of each of three ranks, or its error."""
    store = HashStore()

    def guarded(rank):
        try:
            return work(replace(HERE, rank=rank), store)
        except LaunchError as error:
            return str(error)

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(guarded, range(3)))


def stand(rank, port=1, home=None, address="127.0.0.1"):
    home = home or f"10.0.0.{rank}"
    return reach._Stand(rank, f"host{rank}", home, "eth0", address, port)


def listening(stack, stands):
    """Stands at which somebody listens."""
    for one in stands:
        server = stack.enter_context(socket.create_server((one.address, 0)))
        yield replace(one, port=server.getsockname()[1])


def refusing():
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_rank_0_combines_what_all_say_in_rank_order():
    def say(ranks, store):
        return reach._together(ranks, store, "word", f"from {ranks.rank}", ", ".join)

    assert on_all_ranks(say) == ["from 0, from 1, from 2"] * 3


def test_the_first_problem_is_raised_on_all_ranks():
    problems = ["", "rank 1: no such interface", "rank 2: no such interface"]
    found = on_all_ranks(lambda ranks, store: reach._agree(ranks, store, "a", problems[ranks.rank]))
    assert found == ["rank 1: no such interface"] * 3
    assert on_all_ranks(lambda ranks, store: reach._agree(ranks, store, "a", "")) == [None] * 3


def test_the_first_rank_of_each_host_speaks_for_it():
    homes = ["10.0.0.1", "10.0.0.2", "10.0.0.1"]

    def speak(ranks, store):
        return reach._one_of_each_host(ranks, store, stand(ranks.rank, home=homes[ranks.rank]))

    for found in on_all_ranks(speak):
        assert found == [stand(0, home=homes[0]), stand(1, home=homes[1])]


def test_hosts_that_reach_each_other_have_nothing_to_say():
    with ExitStack() as stack:
        hosts = list(listening(stack, [stand(0), stand(1), stand(2)]))
        assert [reach._not_reached(one, hosts) for one in hosts] == [""] * 3


def test_only_the_first_rank_of_a_host_looks():
    hosts = [stand(0), stand(1, port=refusing())]
    assert reach._not_reached(stand(5), hosts) == ""


def test_a_host_that_is_not_reached_is_named_with_both_ends_and_the_remedy():
    port = refusing()
    with ExitStack() as stack:
        own, other = listening(stack, [stand(0), stand(2)])
        said = reach._not_reached(own, [own, stand(1, port=port), other])
        assert said.startswith(
            "host host0 (rank 0, interface eth0, 127.0.0.1) does not reach host host1 (rank 1, interface "
            "eth0, 127.0.0.1): Connection refused. Open TCP between these hosts"
        )
        assert "GLOO_SOCKET_IFNAME (on GPUs NCCL_SOCKET_IFNAME too), on each host." in said
        assert "hosts in all" not in said
        both = [own, stand(1, port=port), stand(2, port=port)]
        assert reach._not_reached(own, both).endswith(" (2 hosts in all.)")


def test_a_host_of_a_large_job_looks_at_the_next_ones_only(monkeypatch):
    monkeypatch.setattr(reach, "_MOST_HOSTS", 2)
    port = refusing()
    with ExitStack() as stack:
        first, second, third = listening(stack, [stand(0), stand(1), stand(2)])
        hosts = [first, second, third, stand(3, port=port)]
        assert reach._not_reached(first, hosts) == ""
        assert "does not reach host host3" in reach._not_reached(second, hosts)
        assert "does not reach host host3" in reach._not_reached(third, hosts)


def test_after_the_last_host_the_first_follows():
    with ExitStack() as stack:
        (last,) = listening(stack, [stand(1)])
        assert "does not reach host host0" in reach._not_reached(
            last, [stand(0, port=refusing()), last]
        )


def test_on_one_host_nothing_is_agreed_on(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(reach, "interface_for", lambda *_: pytest.fail("an interface was chosen"))
    route = Route("", "")
    assert on_all_ranks(lambda r, store: reach.settle_interfaces(r, store, route)) == [None] * 3


@pytest.mark.parametrize("who", [0, 2])
def test_an_interface_that_one_host_lacks_ends_all_with_its_line(who, monkeypatch):
    def choose(own, addresses, environ):
        if own == f"10.0.0.{who}":
            raise LaunchError("there is no interface eth9 (GLOO_SOCKET_IFNAME)")
        return reach.Interface("lo", "127.0.0.1")

    monkeypatch.setattr(reach, "interface_for", choose)
    monkeypatch.setattr(reach, "_own_address", lambda ranks, *_: f"10.0.0.{ranks.rank}")
    used = []
    monkeypatch.setattr(reach, "use_interface", lambda *_: used.append(1))
    route = Route("", "")
    found = on_all_ranks(lambda ranks, store: reach.settle_interfaces(ranks, store, route))
    assert found == [f"rank {who}: there is no interface eth9 (GLOO_SOCKET_IFNAME)"] * 3
    assert used == []


def test_hosts_that_reach_each_other_use_what_they_chose(monkeypatch):
    monkeypatch.setattr(reach, "interface_for", lambda own, *_: reach.Interface("lo", "127.0.0.1"))
    monkeypatch.setattr(reach, "_own_address", lambda ranks, *_: f"10.0.0.{ranks.rank}")
    used = []
    monkeypatch.setattr(reach, "use_interface", lambda interface, _: used.append(interface.name))
    route = Route("", "")
    assert on_all_ranks(lambda r, store: reach.settle_interfaces(r, store, route)) == [None] * 3
    assert used == ["lo"] * 3
