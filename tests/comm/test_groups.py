"""The groups of links: what NCCL is asked for, which no CPU can run, and who waits for whom."""

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_ranks, values
from tttscale.comm import mesh as meshes
from tttscale.comm.groups import in_rounds, link_groups, prepare_nccl
from tttscale.comm.neighbours import ring_links

HOUR = timedelta(hours=1)


class FakeOptions:
    def __init__(self):
        self.is_high_priority_stream = False
        self.config = SimpleNamespace(min_ctas=None, max_ctas=None)
        self._timeout = None


class FakeGroup(dist.ProcessGroup):
    def __init__(self):
        super().__init__(0, 1)


@pytest.fixture
def asked(monkeypatch):
    """The calls of dist.new_group, in order."""
    calls = []

    def new_group(ranks, **options):
        calls.append((ranks, options))
        return FakeGroup() if RANK in ranks else dist.GroupMember.NON_GROUP_MEMBER

    monkeypatch.setattr(dist, "new_group", new_group)
    fake = SimpleNamespace(Options=FakeOptions)
    monkeypatch.setattr(dist, "ProcessGroupNCCL", fake, raising=False)
    return calls


RANK = 5


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_nccl_is_asked_for_high_priority_and_few_channels(asked, size):
    links = in_rounds(ring_links(size), size)
    own = link_groups(RANK, 2 * size, links, size, backend="nccl", timeout=HOUR)
    assert len(own) == (4 if size * 2 > RANK else 0)
    assert len(asked) == 2 * 2 * size  # all ranks ask for all groups: torch numbers them
    seen = []
    for pair, options in asked:
        assert options["backend"] == "nccl"
        assert options["timeout"] == HOUR
        given = options["pg_options"]
        if RANK not in pair:
            assert given is None
            continue
        assert given.is_high_priority_stream
        assert (given.config.min_ctas, given.config.max_ctas) == (1, 2)
        assert given._timeout == HOUR
        seen.append(given)
    assert len({id(given) for given in seen}) == len(seen)  # torch writes into them


def test_gloo_is_given_no_options_of_nccl(asked):
    link_groups(RANK, 8, ring_links(8), 8, backend="gloo", timeout=HOUR)
    assert {options["pg_options"] for _, options in asked} == {None}
    assert asked[0][1]["group_desc"] == "carries 0 to 1, forward"


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 127, 128])
def test_no_rank_waits_for_a_chain_of_others(size):
    links = in_rounds(ring_links(size), size)
    assert sorted(links, key=str) == sorted(ring_links(size), key=str)
    # How many links are made one after the other until each rank is done, if each takes one unit.
    done = [0] * size
    for source, target, _ in links:
        done[source] = done[target] = max(done[source], done[target]) + 1
    assert max(done) <= 6


def one_pair_after_the_other(ranks):
    """Ranks 2 and 3, of another replica, begin with their links when 0 and 1 have theirs."""
    mesh = meshes.start(ranks, 1, torch.device("cpu"))
    store = dist.distributed_c10d._get_default_store()
    if ranks.rank >= 2:
        store.wait(["done 0", "done 1"], timedelta(seconds=60))
    links = in_rounds(ring_links(2), 2)
    own = link_groups(ranks.rank, 4, links, 2, backend="gloo", timeout=timedelta(seconds=60))
    store.set(f"done {ranks.rank}", "")
    mesh.gather_texts("rank 0's store is needed until here")
    return len(own)


def test_ranks_wait_for_their_own_links_only():
    assert values(run_ranks(one_pair_after_the_other, 4)) == [4] * 4


def test_channels_are_limited_unless_the_user_has():
    environ = {}
    assert prepare_nccl(environ) is None
    assert environ == {"NCCL_MAX_P2P_NCHANNELS": "2"}
    environ = {"NCCL_MAX_P2P_NCHANNELS": "8", "CUDA_DEVICE_MAX_CONNECTIONS": "32"}
    assert prepare_nccl(environ) is None
    assert environ["NCCL_MAX_P2P_NCHANNELS"] == "8"


def test_one_connection_of_a_gpu_is_warned_of():
    warning = prepare_nccl({"CUDA_DEVICE_MAX_CONNECTIONS": "1"})
    assert warning is not None
    assert warning.startswith("WARNING: CUDA_DEVICE_MAX_CONNECTIONS=1")
    assert "Unset CUDA_DEVICE_MAX_CONNECTIONS" in warning


def test_a_mesh_of_gpus_warns_before_it_starts_nccl(monkeypatch, capsys):
    """As far as a CPU gets: to the meeting."""

    def stop(*_):
        raise InterruptedError

    monkeypatch.setattr(meshes, "meet", stop)
    monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    monkeypatch.setenv("NCCL_MAX_P2P_NCHANNELS", "2")
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    ranks = meshes.Ranks(0, 2, 0, 2, "127.0.0.1", 1, "slurm", one_host=True)
    for device, said in (("cuda", 1), ("cpu", 0)):
        with pytest.raises(InterruptedError):
            meshes.start(ranks, 2, torch.device(device))
        assert capsys.readouterr().err.count("WARNING: CUDA_DEVICE_MAX_CONNECTIONS=1") == said


def test_nccls_options_have_these_names():
    """A CPU build of torch has no ProcessGroupNCCL, but says what it looks like."""
    stub = Path(torch.__file__).parent / "_C" / "_distributed_c10d.pyi"
    text = stub.read_text()
    nccl = text[text.index("class ProcessGroupNCCL") :]
    for name in ("min_ctas: int", "max_ctas: int", "is_high_priority_stream: bool", "config: Proc"):
        assert name in nccl
