"""The other commands of docs/launching.md: files of hosts, without ssh, rendered Slurm files, the doctor."""

import pytest

from tests.hosts.cluster_slurm import NO_GPU, PLACE, log
from tests.hosts.jobs import start, wait_all
from tests.hosts.lab import shell
from tests.hosts.ssh import hostfile


def two_hosts(site):
    return hostfile(site.work / "hosts", "hosta slots=2", "hostb slots=2").name


@pytest.mark.parametrize("kind", ["Open MPI", "MPICH"])
def test_mpirun_with_a_file_of_hosts(kind, site, mpich, pair, case):
    checkout = {"Open MPI": site.checkout, "MPICH": mpich}[kind]
    script = f"../{checkout.name}/launch/mpirun.sh"
    line = shell("bash", script, "tiny.yaml", f"run.name={case.run}", HOSTFILE=two_hosts(site))
    case.say(launcher=f"{kind}, HOSTFILE", hosts="2 x 2", command=line)
    case.check(start(pair["hosta"], line, site.work).wait())


def test_deepspeed_script_without_ssh(site, pair, case):
    script = "../checkout/launch/deepspeed.sh"
    lines = [
        shell(
            *("bash", script, "tiny.yaml", f"run.name={case.run}"),
            **dict(HOSTFILE=two_hosts(site), NODE_RANK=rank, MASTER_ADDR="hosta"),
        )
        for rank in (0, 1)
    ]
    case.say(launcher="deepspeed (NODE_RANK)", hosts="2 x 2", command=lines[0])
    jobs = [start(pair[h], line, site.work) for h, line in zip(pair.hosts, lines, strict=True)]
    case.check(*wait_all(jobs))


def test_doctor_under_mpirun(site, pair, case):
    """Every rank with its host and address on the network that joins them; no problem is found."""
    line = shell(
        *("bash", "../checkout/launch/mpirun.sh", "tiny.yaml"),
        **dict(VERB="doctor", HOSTFILE=two_hosts(site)),
    )
    case.say(launcher="doctor, Open MPI", hosts="2 x 2", command=line)
    done = start(pair["hosta"], line, site.work).wait().passed()
    for host in pair.hosts.values():
        assert host.name in done.output
        assert host.address() in done.output
    assert "eth0" in done.output
    case.say(result="no problem; hosts, addresses and eth0 are named")


def test_rendered_for_slurm(site, cluster, case):
    line = shell(
        *(".venv/bin/tttscale", "launch", "slurm", "../work/tiny.yaml"),
        *("--nodes", 2, "--ranks-per-node", 2, "--cpus-per-rank", 1, "--time", "0:10:00"),
        *("--lead-seconds", 60, f"run.name={case.run}"),
        *("run.dir=../work/runs", "data.store=../work/store"),
    )
    case.say(launcher="tttscale launch slurm", hosts="2 x 2", command=line)
    job = cluster.submit(line, site.checkout)
    state = cluster.wait(job)
    folder = site.work / "runs" / case.run / "slurm"
    assert state == "COMPLETED", [p.read_text() for p in folder.glob("*")]
    case.check()


def test_doctor_under_slurm(site, cluster, case):
    line = shell("sbatch", *PLACE, NO_GPU, "launch/slurm.sbatch", VERB="doctor")
    case.say(launcher="doctor, Slurm", hosts="2 x 2", command=line)
    job = cluster.submit(line, site.checkout)
    state = cluster.wait(job)
    said = log(site, job)
    assert state == "COMPLETED", said
    assert "node1" in said
    assert "node2" in said
    case.say(result="no problem; both nodes are named")


@pytest.mark.parametrize("kind", ["Open MPI", "MPICH"])
def test_carries_over_mpi(kind, site, mpich, pair, case):
    checkout = {"Open MPI": site.checkout, "MPICH": mpich}[kind]
    line = shell(
        *("bash", f"../{checkout.name}/launch/mpirun.sh", "tiny.yaml", f"run.name={case.run}"),
        "parallel.transport=mpi",
        HOSTFILE=two_hosts(site),
    )
    case.say(launcher=f"{kind}, carries over MPI", hosts="2 x 2", command=line)
    case.check(start(pair["hosta"], line, site.work).wait())


@pytest.mark.parametrize(
    ("launcher", "options"),
    [
        ("torchrun", ()),
        ("deepspeed", ("--", "--master_port", 29600)),
        ("mpirun", ("--", "--bind-to", "none")),
    ],
    ids=["torchrun", "deepspeed", "mpirun"],
)
def test_one_host(launcher, options, site, pair, case):
    """With options of the launcher after `--`."""
    line = shell(
        *("bash", f"../checkout/launch/{launcher}.sh", "tiny.yaml", f"run.name={case.run}"),
        *("parallel.sequence=2", *options),
        N=2,
    )
    case.say(launcher=f"{launcher}.sh", hosts="1 x 2", command=line)
    case.check(start(pair["hosta"], line, site.work).wait())


TTTSCALE = "../checkout/.venv/bin/tttscale"
TORCHRUN = "bash", "../checkout/launch/torchrun.sh", "tiny.yaml", "parallel.sequence=2"
SLURM = TTTSCALE, "launch", "slurm", "tiny.yaml", "--nodes", 2, "--ranks-per-node", 2, "--dry-run"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (shell(TTTSCALE, "train", "tiny.yaml", "--print-config"), "chunk_length"),
        (shell(*SLURM), "#SBATCH"),
        (shell(TTTSCALE, "doctor"), "torch"),
        (shell(*TORCHRUN, VERB="doctor", N=2), "rank"),
    ],
    ids=["resolved configuration", "a Slurm file", "doctor", "doctor, torchrun"],
)
def test_what_only_looks(line, said, site, pair, case):
    case.say(launcher="looks only", hosts="1", command=line)
    done = start(pair["hosta"], line, site.work).wait().passed()
    assert said in done.output
    case.say(result=f"exit code 0, and {said!r} is said")
