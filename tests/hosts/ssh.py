"""sshd on the hosts of a lab, and keys with which root of each reaches the others."""

import subprocess
from pathlib import Path

from tests.hosts.lab import Lab, poll

CLIENT = """\
Host *
  IdentityFile {folder}/key
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""
SERVER = """\
HostKey {folder}/key
AuthorizedKeysFile {folder}/key.pub
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""


def start_ssh(lab: Lab) -> None:
    """Start sshd on all hosts; nothing in anybody's home is touched."""
    folder = lab.folder / "ssh"
    folder.mkdir()
    key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")]
    subprocess.run(key, check=True)
    (folder / "sshd").write_text(SERVER.format(folder=folder))
    (folder / "ssh").write_text(CLIENT.format(folder=folder))
    for host in lab.hosts.values():
        host.do(f"mount --bind {folder}/ssh /etc/ssh/ssh_config; /usr/sbin/sshd -f {folder}/sshd")
    for host in lab.hosts.values():
        poll(lambda host=host: _answers(lab, host.name), f"sshd of {host.name} answers")


def _answers(lab: Lab, name: str) -> bool:
    first = next(iter(lab.hosts.values()))
    words = first.words("ssh", "-o", "ConnectTimeout=2", name, "true")
    return subprocess.run(words, stdin=subprocess.DEVNULL, check=False).returncode == 0


def hostfile(path: Path, *lines: str) -> Path:
    """Write a file of hosts."""
    path.write_text("".join(line + "\n" for line in lines))
    return path
