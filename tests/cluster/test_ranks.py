"""Rank discovery from environments as the launchers leave them."""

import pytest

from tttscale.cluster import Ranks, discover, discover_place
from tttscale.errors import LaunchError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "ROLE_RANK": "5",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_RUN_ID": "none",
}
DEEPSPEED = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_SIZE": "4",
    "CROSS_RANK": "1",
    "CROSS_SIZE": "2",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29500",
    "CUDA_VISIBLE_DEVICES": "0,1,2,3",
}
SBATCH = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_JOB_NODELIST": "gpu[07-08]-ib,login1",
    "SLURM_NTASKS": "7",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "4,3",
}
SRUN = {
    **SBATCH,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_STEP_NODELIST": "gpu[07-08]-ib",
    "SLURM_STEP_TASKS_PER_NODE": "4,3",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
    "OMPI_COMM_WORLD_NODE_RANK": "3",
    "PMIX_RANK": "3",
}
HYDRA = {
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
    "PMI_FD": "9",
    "MPI_LOCALRANKID": "1",
    "MPI_LOCALNRANKS": "2",
}
PALS = {"PMI_RANK": "9", "PMI_SIZE": "16", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "8"}

RECORDED = [
    ({}, Ranks(0, 1, 0, 1, "127.0.0.1", 29500, "single", True)),
    ({"MASTER_PORT": "4000"}, Ranks(0, 1, 0, 1, "127.0.0.1", 4000, "single", True)),
    (TORCHRUN, Ranks(5, 8, 1, 4, "node0", 29400, "environment")),
    (DEEPSPEED, Ranks(5, 8, 1, 4, "10.0.0.1", 29500, "environment")),
    ({"RANK": "1", "WORLD_SIZE": "2"}, Ranks(1, 2, 1, 2, "127.0.0.1", 29500, "environment")),
    (SBATCH, Ranks(0, 1, 0, 1, "127.0.0.1", 29500, "single", True)),
    (SRUN, Ranks(6, 7, 2, 3, "gpu07-ib", 34567, "slurm")),
    ({**SRUN, "PMI_RANK": "6", "PMI_SIZE": "7"}, Ranks(6, 7, 2, 3, "gpu07-ib", 34567, "slurm")),
    ({**SRUN, "MASTER_ADDR": "me"}, Ranks(6, 7, 2, 3, "me", 34567, "slurm")),
    ({**SRUN, **TORCHRUN}, Ranks(5, 8, 1, 4, "node0", 29400, "environment")),
    (OPENMPI, Ranks(3, 4, 3, 4, "127.0.0.1", 29500, "openmpi", True)),
    # mpirun inside sbatch: its daemon, and so the rank, carries the daemon's own Slurm step.
    (
        {**SRUN, **OPENMPI, "OMPI_COMM_WORLD_SIZE": "8"},
        Ranks(3, 8, 3, 4, "gpu07-ib", 34567, "openmpi"),
    ),
    (HYDRA, Ranks(1, 2, 1, 2, "127.0.0.1", 29500, "pmi", True)),
    ({**PALS, "MASTER_ADDR": "x1"}, Ranks(9, 16, 1, 8, "x1", 29500, "pmi")),
]


@pytest.mark.parametrize(("environ", "expected"), RECORDED)
def test_recorded_environments(environ, expected):
    assert discover(environ) == expected


def test_without_a_meeting_several_hosts_need_no_address():
    environ = {**OPENMPI, "OMPI_COMM_WORLD_SIZE": "8"}
    assert discover_place(environ) == Ranks(3, 8, 3, 4, "127.0.0.1", 29500, "openmpi")
    assert discover_place({**environ, "MASTER_ADDR": "me"}).master_addr == "me"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("a1,b2", "a1"),
        ("n[001-004,007]", "n001"),
        ("rack[2-3]n[10,12]", "rack2n10"),
    ],
)
def test_first_slurm_host(nodes, first):
    assert discover({**SRUN, "SLURM_STEP_NODELIST": nodes}).master_addr == first


@pytest.mark.parametrize(
    ("per_node", "node", "expected"),
    [("8(x2),3", 2, 3), ("8(x2),3", 1, 8), ("", 0, 19), ("x", 0, 19)],
)
def test_slurm_tasks_on_this_host(per_node, node, expected):
    environ = {
        **SRUN,
        "SLURM_STEP_NUM_TASKS": "19",
        "SLURM_STEP_TASKS_PER_NODE": per_node,
        "SLURM_TASKS_PER_NODE": "",
        "SLURM_NODEID": str(node),
    }
    found = discover(environ)
    assert found.local_world_size == expected
    assert not found.one_host  # 19 without a word from Slurm, too


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({**TORCHRUN, "RANK": "8"}, "rank 8 of 8"),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, "local rank 4 of 4"),
        ({**TORCHRUN, "LOCAL_WORLD_SIZE": "9"}, "9 on this host, of 8"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK='-1'"),
        ({**TORCHRUN, "WORLD_SIZE": "eight"}, "WORLD_SIZE='eight'"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "rank 5 of 0"),
        ({**TORCHRUN, "MASTER_PORT": "70000"}, "not a TCP port"),
        ({"RANK": "0"}, "RANK=0 is set but WORLD_SIZE is not"),
        ({"WORLD_SIZE": "4"}, "set but RANK is not"),
        ({**OPENMPI, "OMPI_COMM_WORLD_SIZE": "8"}, "MASTER_ADDR is not set"),
        ({"OMPI_COMM_WORLD_RANK": "0"}, "lacks OMPI_COMM_WORLD_SIZE"),
        ({**SRUN, "SLURM_PROCID": "7"}, "rank 7 of 7"),
    ],
)
def test_contradictions(environ, expected):
    with pytest.raises(LaunchError, match=expected):
        discover(environ)


MPIRUN = {**OPENMPI, "PMIX_NAMESPACE": "prterun-node0-30031@1"}


def test_each_job_has_a_port_of_its_own_and_all_its_ranks_the_same():
    def port(environ):
        return discover(environ).master_port

    jobs = [
        MPIRUN,
        {**MPIRUN, "PMIX_NAMESPACE": "prterun-node0-30045@1"},
        {**OPENMPI, "PMIX_NAMESPACE": "2837970945"},
        {**SRUN, **MPIRUN, "OMPI_COMM_WORLD_SIZE": "8"},
        SRUN,
        {**SRUN, "SLURM_STEP_ID": "1"},
        {**PALS, "MASTER_ADDR": "x1", "PALS_APID": "7bca1e1b-9b4c"},
        {**HYDRA, "PBS_JOBID": "1234.pbs"},
    ]
    ports = [port(job) for job in jobs]
    assert ports[3] == ports[0]  # several mpirun in one job of Slurm are told apart
    assert len(set(ports)) == len(jobs) - 1
    assert all(20000 <= found < 40000 for found in ports)
    for job in jobs:
        assert port({**job, "MASTER_PORT": "4001"}) == 4001
    others = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "PMIX_RANK": "0"}
    assert port({**MPIRUN, **others}) == ports[0]
