"""torchrun, deepspeed, Open MPI and MPICH over two hosts, by the scripts in launch/ as they are."""

import pytest

from tests.hosts import run
from tests.hosts.jobs import start, wait_all
from tests.hosts.lab import shell
from tests.hosts.ssh import hostfile

OPEN_MPI = "--allow-run-as-root --hostfile hosts -x MASTER_ADDR=hosta -x OMP_NUM_THREADS"


def test_torchrun(site, pair, case):
    lines = [
        shell(
            *("bash", "../checkout/launch/torchrun.sh", "tiny.yaml", f"run.name={case.run}"),
            **dict(NODES=2, NODE_RANK=rank, MASTER_ADDR="hosta", N=2),
        )
        for rank in (0, 1)
    ]
    case.say(launcher="torchrun", hosts="2 x 2", command=lines[0])
    jobs = [start(pair[h], line, site.work) for h, line in zip(pair.hosts, lines, strict=True)]
    case.check(*wait_all(jobs))


def test_deepspeed_with_a_hostfile(site, pair, case):
    hostfile(site.work / "hosts", "hosta slots=2", "hostb slots=2")
    line = shell(
        *("bash", "../checkout/launch/deepspeed.sh", "tiny.yaml", f"run.name={case.run}"),
        HOSTFILE="hosts",
    )
    case.say(launcher="deepspeed (pdsh)", hosts="2 x 2", command=line)
    case.check(start(pair["hosta"], line, site.work).wait())


def test_deepspeed_without_ssh(site, pair, case):
    hostfile(site.work / "hosts", "hosta slots=2", "hostb slots=2")
    lines = [
        shell(
            *("../checkout/.venv/bin/deepspeed", "--hostfile", "hosts", "--no_ssh"),
            *("--node_rank", rank, "--master_addr", "hosta", "--module", "tttscale"),
            *("train", "tiny.yaml", f"run.name={case.run}"),
            DS_ACCELERATOR="cpu",
            OMP_NUM_THREADS=1,
        )
        for rank in (0, 1)
    ]
    case.say(launcher="deepspeed (no_ssh)", hosts="2 x 2", command=lines[0])
    jobs = [start(pair[h], line, site.work) for h, line in zip(pair.hosts, lines, strict=True)]
    case.check(*wait_all(jobs))


def test_open_mpi(site, pair, case):
    hostfile(site.work / "hosts", "hosta slots=2", "hostb slots=2")
    line = shell(
        *("bash", "../checkout/launch/mpirun.sh", "tiny.yaml", f"run.name={case.run}"),
        N=4,
        MPIRUN_ARGS=OPEN_MPI,
    )
    case.say(launcher="Open MPI", hosts="2 x 2", command=line)
    case.check(start(pair["hosta"], line, site.work).wait())


def test_mpich(site, mpich, pair, case):
    hostfile(site.work / "hosts.mpich", "hosta:2", "hostb:2")
    line = shell(
        *("bash", f"../{mpich.name}/launch/mpirun.sh", "tiny.yaml", f"run.name={case.run}"),
        N=4,
        MPIRUN_ARGS="-f hosts.mpich -genv MASTER_ADDR hosta",
    )
    case.say(launcher="MPICH", hosts="2 x 2", command=line)
    case.check(start(pair["hosta"], line, site.work).wait())


@pytest.mark.parametrize("kind", ["Open MPI", "MPICH"])
def test_a_store_built_over_hosts(kind, site, mpich, pair, case):
    hostfile(site.work / "hosts", "hosta", "hostb")
    checkout, arguments = {
        "Open MPI": (site.checkout, "--allow-run-as-root --hostfile hosts"),
        "MPICH": (mpich, "-f hosts"),
    }[kind]
    out = f"store-{case.run}"
    line = shell(
        *("bash", f"../{checkout.name}/launch/build_data.sh", out, "texts", "--workers", 2),
        N=2,
        MPIRUN_ARGS=arguments,
    )
    case.say(launcher=f"{kind}, a store", hosts="2 x 1", command=line)
    start(pair["hosta"], line, site.work).wait().passed()
    assert run.same_bytes(site.work / "store", site.work / out)
    case.say(result="every byte of the store is as one process writes it")
