"""Hosts whose own name leads to the wrong address, or nowhere; two networks. No variable is set by hand."""

import pytest

from tests.hosts.jobs import start, wait_all
from tests.hosts.lab import Lab, shell


def others(lab, host, network=0):
    return [(h.address(network), h.name) for h in lab.hosts.values() if h is not host]


def debian(lab):
    """As Debian's installer writes /etc/hosts."""
    for host in lab.hosts.values():
        host.know([("127.0.1.1", host.name), *others(lab, host)])


def nameless(lab):
    """Hosts that know the others, and not themselves."""
    for host in lab.hosts.values():
        host.know(others(lab, host))


def second_network(lab):
    """Names stand for the second network; the first leads nowhere."""
    for host in lab.hosts.values():
        host.know([(h.address(1), h.name) for h in lab.hosts.values()])
        lab.unplug(host, 0)


def own_name_on_a_private_network(lab):
    """The own name is an address that all hosts have, such as that of a bridge for containers."""
    for host in lab.hosts.values():
        host.do("ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0")
        host.know([("172.17.0.1", host.name), *others(lab, host, 1)])


LAYOUTS = {
    "127.0.1.1": (debian, 1, "hosta"),
    "no own name": (nameless, 1, "10.77.0.1"),
    "names of the second network": (second_network, 2, "hosta"),
    "an own name on a private network": (own_name_on_a_private_network, 2, "hosta"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ranks_find_each_other(layout, site, case):
    """Without a variable for an interface; a host without a name is told of its master by address."""
    arrange, networks, master = LAYOUTS[layout]
    with Lab("hosta", "hostb", networks=networks) as lab:
        arrange(lab)
        lines = [
            shell(
                *("bash", "../checkout/launch/torchrun.sh", "tiny.yaml"),
                *("parallel.sequence=2", f"run.name={case.run}"),
                **dict(NODES=2, NODE_RANK=rank, MASTER_ADDR=master, N=1),
            )
            for rank in (0, 1)
        ]
        case.say(launcher=f"torchrun, {layout}", hosts="2 x 1", command=lines[0])
        jobs = [start(lab[h], line, site.work) for h, line in zip(lab.hosts, lines, strict=True)]
        case.check(*wait_all(jobs))


def test_a_firewall(site, case):
    """Only MASTER_PORT is open: the same line on both hosts says who does not reach whom, and what to set."""
    with Lab("hosta", "hostb") as lab:
        for host in lab.hosts.values():
            host.do("iptables -A INPUT -i eth0 -p tcp --syn ! --dport 29500 -j DROP")
        lines = [
            shell(
                *("bash", "../checkout/launch/torchrun.sh", "tiny.yaml"),
                *("parallel.sequence=2", f"run.name={case.run}"),
                **dict(NODES=2, NODE_RANK=rank, MASTER_ADDR="hosta", MASTER_PORT=29500, N=1),
            )
            for rank in (0, 1)
        ]
        case.say(launcher="torchrun, a firewall", hosts="2 x 1", command=lines[0])
        jobs = [start(lab[h], line, site.work) for h, line in zip(lab.hosts, lines, strict=True)]
        done = wait_all(jobs)
    said = [reason(job.output) for job in done]
    assert said[0] == said[1]
    for word in ("hosta", "hostb", "eth0", "GLOO_SOCKET_IFNAME"):
        assert word in said[0]
    case.say(result=said[0])


def reason(output):
    """What `error: ` says, without the rank that says it."""
    (line,) = {text.split("error: ", 1)[1] for text in output.splitlines() if is_error(text)}
    return line


def is_error(line):
    return line.startswith(("error: ", "[rank 1] error: "))
