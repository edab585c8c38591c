"""What is left of the host's memory under the limits of control groups."""

import os
import sys

import psutil

from tttscale.train.memory import available_bytes


def group(folder, limit, used, cached=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cached}\nslab 7\n")


def test_the_tightest_limit_on_the_way_to_the_root_counts(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("0::/slurm/job_7/step_0\n")
    root = tmp_path / "fs"
    group(root / "slurm" / "job_7" / "step_0", "max", 100)
    assert available_bytes(own, root) > 1 << 20  # no limit: the host's
    group(root / "slurm" / "job_7", 5000, 3000, cached=400)
    assert available_bytes(own, root) == 2400
    group(root / "slurm", 4000, 3900)
    assert available_bytes(own, root) == 100
    group(root, 4000, 4500)  # a container sees its own limit at the root
    assert available_bytes(own, root) == 0


def test_without_control_groups_it_is_the_host_that_counts(tmp_path):
    found = available_bytes(tmp_path / "none", tmp_path)
    assert 0 < found <= psutil.virtual_memory().total


def test_a_process_is_not_charged_with_what_started_it():
    """The system's own count begins with what there was before the program was started."""
    ballast = bytearray(b"x") * (600 << 20)
    code = "import torch; from tttscale.train import memory; print(memory.peak_bytes(torch.device('cpu')))"
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(writer, 1)
        os.execv(sys.executable, [sys.executable, "-c", code])
    os.close(writer)
    with os.fdopen(reader) as output:
        found = int(output.read())
    os.waitpid(pid, 0)
    assert 50 << 20 < found < len(ballast)
