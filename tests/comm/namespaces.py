"""Two hosts on one machine: namespaces with addresses, a name and a hosts file of their own."""

import ctypes
import os
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

KINDS = ("net", "uts", "mnt")
NAMES = ("hosta", "hostb")
SECONDS = 20


def missing():
    """Why there can be no hosts here, or None."""
    if os.geteuid() != 0:
        return "only root makes hosts of namespaces"
    try:
        probe = ["unshare", "--net", "--uts", "--mount", "ip", "link", "set", "lo", "up"]
        done = subprocess.run(probe, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unshare and ip make hosts of namespaces: {error}"
    return f"unshare: {done.stderr.strip()}" if done.returncode else None


@contextmanager
def two_hosts(folder, hosts_files, networks):
    """hosta and hostb, joined by eth0, eth1, ...

    Args:
        folder: for their hosts files.
        hosts_files: of each host, the lines after localhost.
        networks: for each cable, the address of both ends with its length: ("10.0.0.1/24", "10.0.0.2/24").

    Yields:
        The processes that hold the namespaces, whose ids `enter` takes.
    """
    with ExitStack() as stack:
        holders = [stack.enter_context(_held()) for _ in NAMES]
        for holder, name, lines in zip(holders, NAMES, hosts_files, strict=True):
            file = Path(folder) / f"{name}.hosts"
            file.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
            run(holder, "hostname", name)
            run(holder, "mount", "--bind", str(file), "/etc/hosts")
            run(holder, "ip", "link", "set", "lo", "up")
        for i, ends in enumerate(networks):
            peer = f"peer name eth{i} netns {holders[1]}"
            run(holders[0], *f"ip link add eth{i} type veth {peer}".split())
            for holder, address in zip(holders, ends, strict=True):
                at_once = ["nodad"] if ":" in address else []
                run(holder, *f"ip address add {address} dev eth{i}".split(), *at_once)
                run(holder, *f"ip link set eth{i} up".split())
        yield holders


def run(holder, *words):
    """Run a command on the host that the process `holder` holds."""
    inside = ["nsenter", "-t", str(holder), "--net", "--uts", "--mount", *words]
    subprocess.run(inside, check=True, timeout=SECONDS, capture_output=True)


def enter(holder):
    """Move this process, which has one thread, onto the host."""
    libc = ctypes.CDLL(None, use_errno=True)
    files = [os.open(f"/proc/{holder}/ns/{kind}", os.O_RDONLY) for kind in KINDS]
    folder = Path.cwd()
    for file in files:
        if libc.setns(file, 0):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(file)
    os.chdir(folder)


@contextmanager
def _held():
    words = ["unshare", "--net", "--uts", "--mount", "sleep", "600"]
    holder = subprocess.Popen(words, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + SECONDS
        while any(_same(holder.pid, kind) for kind in KINDS):
            assert time.monotonic() < until, "no namespaces"
            time.sleep(0.02)
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


def _same(pid, kind):
    return Path(f"/proc/{pid}/ns/{kind}").readlink() == Path(f"/proc/self/ns/{kind}").readlink()
