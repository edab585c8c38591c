"""tests/cluster.sh says why it does not run, where it cannot."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "cluster.sh"
LACKING = {
    "needs root": {"id": "echo 1000"},
    "needs CAP_SYS_ADMIN": {"unshare": "exit 1"},
    "needs CAP_NET_ADMIN": {"unshare": 'case "$*" in *"ip link"*) exit 1;; esac'},
    "slurm-wlm munge openssh-server pdsh iptables ethtool": {
        "dpkg-query": "exit 1",
        "apt-get": "exit 100",
    },
}


@pytest.mark.parametrize("reason", LACKING)
def test_a_reason_is_given(reason, tmp_path):
    everything = {"id": "echo 0", "unshare": "exit 0"} | LACKING[reason]
    for name, body in everything.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run(
        [bash, SCRIPT],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].startswith("skipped: ")
    assert reason in done.stderr.splitlines()[-1]
    assert not done.stdout
