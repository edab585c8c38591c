"""A Slurm of a controller and two nodes, on the hosts of a lab."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hosts.jobs import Done, start
from tests.hosts.lab import Host, Lab, poll

# 4 CPUs a node, however many there are. No plugin that needs cgroups, a data base or GPUs.
CONF = """\
ClusterName=small
SlurmctldHost=ctl
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=30
SlurmctldTimeout=30
MinJobAge=600
KillWait=30
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=node[1-2] CPUs=4 CoresPerSocket=4 RealMemory=2000 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=node[1-2] MaxTime=INFINITE State=UP PriorityTier=10
"""
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


class Slurm:
    """A cluster that runs."""

    def __init__(self, lab: Lab, conf: Path) -> None:
        self.lab, self._conf = lab, conf
        self._ctl = lab["ctl"]
        self.variables = {"SLURM_CONF": str(conf)}

    def call(self, line: str) -> str:
        """Run a line of shell on the controller; return what it prints."""
        return self._ctl.do(f"export SLURM_CONF={self._conf}; {line}")

    def run(self, line: str, cwd: Path) -> Done:
        """Run a line such as `srun ...` on the controller, until it ends."""
        return start(self._ctl, line, cwd, self.variables).wait()

    def submit(self, line: str, cwd: Path) -> int:
        """Run a line that submits a job, in a folder; return the job's number."""
        found = re.search(r"job (\d+)", self.run(line, cwd).passed().output)
        assert found
        return int(found[1])

    def state(self, job: int) -> str:
        """The job's state, as scontrol says it."""
        found = re.search(r"JobState=(\w+)", self.call(f"scontrol show job {job}"))
        return found[1] if found else "unknown"

    def shown(self, job: int, name: str) -> str:
        """A field of the job, as scontrol shows it: `ExitCode`, `Restarts`."""
        found = re.search(rf"\b{name}=(\S+)", self.call(f"scontrol show job {job}"))
        assert found
        return found[1]

    def wait_for_requeue(
        self, job: int, delay_seconds: int = 15, timeout_seconds: float = 300.0
    ) -> None:
        """Wait until a job is queued again, and let it start sooner than after Slurm's two minutes."""
        poll(lambda: self.shown(job, "Restarts") != "0", f"job {job} again", timeout_seconds)
        poll(lambda: self.state(job) == "PENDING", f"job {job} waits", timeout_seconds)
        # Not at once: the credential of the start before is revoked for some seconds.
        self.call(f"scontrol update JobId={job} StartTime=now+{delay_seconds} || true")

    def wait_until_idle(self) -> None:
        """Wait until both nodes can take a job."""
        poll(lambda: "idle 2" in _nodes(self), "both nodes are idle", 120.0)

    def wait(self, job: int, timeout_seconds: float = 300.0) -> str:
        """Wait until a job has ended; return its state."""
        poll(lambda: self.state(job) in ENDED, f"job {job} ends", timeout_seconds)
        return self.state(job)

    def boot(self, node: Host) -> None:
        """Start what makes a host a node."""
        node.do(f"export SLURM_CONF={self._conf}; slurmd -N {node.name}")

    def cancel_all(self) -> None:
        """End all jobs."""
        self.call("scancel --user=root")


@contextmanager
def slurm() -> Iterator[Slurm]:
    """Start munge, slurmctld and two slurmd on hosts of their own."""
    with Lab("ctl", "node1", "node2") as lab:
        folder = lab.folder / "slurm"
        (folder / "state").mkdir(parents=True)
        conf = folder / "slurm.conf"
        conf.write_text(CONF.format(folder=folder))
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        for host in lab.hosts.values():
            files = " ".join(
                f"--{kind}-file={folder}/munge-{host.name}.{kind}"
                for kind in ("log", "pid", "seed")
            )
            host.do(f"mkdir -p /run/munge; munged --force --key-file={key} {files}")
        cluster = Slurm(lab, conf)
        cluster.call("slurmctld -c")
        for name in ("node1", "node2"):
            (folder / f"spool-{name}").mkdir()
            cluster.boot(lab[name])
        poll(lambda: "idle 2" in _nodes(cluster), "both nodes are idle")
        try:
            yield cluster
        finally:
            cluster.cancel_all()


def _nodes(cluster: Slurm) -> str:
    try:
        return cluster.call("sinfo --noheader -o '%t %D'")
    except RuntimeError:  # the controller does not listen yet
        return ""
