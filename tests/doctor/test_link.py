"""Links that are slower than others of their kind."""

from tttscale.doctor import link


def test_slow_links_are_named():
    hosts = ["a", "a", "b", "b"]

    def made(source, rate, latency=1e-4):
        return link.Link(source, (source + 1) % 4, 1 << 20, latency, rate, "gloo")

    fine = [made(source, 1e9) for source in range(4)]
    assert list(link.slow_links(fine, hosts)) == []
    (found,) = link.slow_links([*fine[:3], made(3, 1e6)], hosts)
    assert found.what.startswith("rank 3 -> 0 (b -> a) over gloo")
    assert "GLOO_SOCKET_IFNAME" in found.remedy
    (found,) = link.slow_links([made(0, 1e9, latency=0.1), *fine[1:]], hosts)
    assert found.what.startswith("rank 0 -> 1 (a -> a)")
    ring = [link.Link(r, r + 1, 1, 1e-4, 2e8 if r == 2 else 2e9, "mpi") for r in range(4)]
    (found,) = link.slow_links(ring, ["a"] * 5)
    assert "the others of its kind 2.00GB/s" in found.what
