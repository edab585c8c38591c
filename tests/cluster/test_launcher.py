"""Who started a rank, and that it ends with its launcher: real processes, and a made-up /proc."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.warm import Fresh
from tttscale.cluster.launcher import Link, broken_link, launcher_links


def processes(folder, *chain):
    """A /proc of processes 10, 9, ...: each is the child of the next one."""
    for place, (name, words) in enumerate(chain):
        pid = 10 - place
        own = folder / str(pid)
        own.mkdir(parents=True, exist_ok=True)
        parent = pid - 1 if place + 1 < len(chain) else 1
        (own / "stat").write_text(f"{pid} ({name}) S {parent} 0 0")
        (own / "cmdline").write_bytes(words.replace(" ", "\0").encode())
        (own / "comm").write_text(name)
    return folder


RANK = ("python", "python -m tttscale train run.yaml")


@pytest.mark.parametrize(
    ("above", "found"),
    [
        ([], []),
        ([("bash", "bash")], []),
        ([("python", "python -m torch.distributed.run -m tttscale")], ["torch.distributed.run"]),
        ([("torchrun", "torchrun x"), ("bash", "bash"), ("sshd", "sshd")], ["torchrun"]),
        (
            [
                ("python", "python -m deepspeed.launcher.launch"),
                ("python", "bin/deepspeed --num_gpus 2"),
            ],
            ["deepspeed", "deepspeed"],
        ),
        ([("bash", "bash -c each"), ("slurmstepd", "")], ["bash", "slurmstepd"]),
        ([("python", "python -m tttscale bench step"), ("bash", "bash")], ["tttscale bench"]),
        ([("od d) (x", "sh"), ("mpirun", "mpirun -n 2 sh")], ["sh", "mpirun"]),
    ],
)
def test_the_chain_ends_with_the_topmost_launcher(tmp_path, above, found):
    links = launcher_links(10, processes(tmp_path, RANK, *above))
    assert [link.name for link in links] == found
    assert [(link.child, link.parent) for link in links] == [
        (10 - i, 9 - i) for i in range(len(found))
    ]


@pytest.mark.parametrize("which", [8, 9])
@pytest.mark.parametrize("how", ["gone", "zombie", "adopted"])
def test_a_chain_breaks_where_a_process_ends(tmp_path, which, how):
    chain = [RANK, ("sh", "sh"), ("torchrun", "torchrun"), ("bash", "bash")]
    proc = processes(tmp_path, *chain)
    links = launcher_links(10, proc)
    assert broken_link(links, proc) is None
    stat = proc / str(which) / "stat"
    if how == "gone":
        stat.unlink()
    elif how == "zombie":
        stat.write_text(f"{which} (x) Z {which - 1} 0")
    else:
        (proc / str(which + 1) / "stat").write_text(f"{which + 1} (x) S 1 0")
    lost = broken_link(links, proc)
    # The topmost launcher's own end shows in its child, who gets another parent.
    assert lost is None if (which, how) in ((8, "gone"), (8, "zombie")) else isinstance(lost, Link)


NAMED = """
import os, sys, time
from pathlib import Path
from tttscale.cluster.launcher import end_with_launcher

end_with_launcher(3)
Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(60)
"""


def test_a_rank_ends_when_its_launcher_is_killed(tmp_path):
    rank, noted = tmp_path / "rank.py", tmp_path / "pid"
    rank.write_text(NAMED)
    launcher = tmp_path / "torchrun"  # only its name counts
    launcher.write_text("import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])")
    started = Fresh([sys.executable, launcher, rank, noted])
    deadline = time.monotonic() + 60
    try:
        while not (noted.exists() and noted.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pid = int(noted.read_text())
        os.kill(started.pid, signal.SIGKILL)
        while is_running(pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        done = started.wait(10)
    finally:
        started.kill()
    assert (
        f"error: rank 3 ends: its launcher is gone (torchrun, process {started.pid})" in done.stderr
    )


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
