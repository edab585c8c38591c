"""Hosts as namespaces of this machine, with names, addresses and networks of their own.

The file system is shared, as on a cluster; /run, /dev/shm and System V shared memory are not. The
machine's own network stays as it is: the switches are bridges in a namespace of their own. With a host's
first process ends all that runs there; all hosts end with the process that made them.
"""

import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from types import TracebackType

READY_SECONDS = 30.0
HOST_NAMESPACES = ("-n", "-u", "-i", "-m", "-p")


def poll(
    condition: Callable[[], object], what: str, timeout_seconds: float = READY_SECONDS
) -> None:
    """Wait until `condition()` is true.

    Raises:
        TimeoutError: it was not within the time.
    """
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_seconds:.0f} s: {what}")
        time.sleep(0.1)


class Space:
    """Namespaces that one process keeps open."""

    def __init__(self, *namespaces: str) -> None:
        self.namespaces = namespaces
        more = ("--fork", "--kill-child=KILL", *(("--mount-proc",) if "-p" in namespaces else ()))
        # setpriv: whatever ends this process ends the namespaces, too.
        keep = ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, *more]
        self._outer = subprocess.Popen(
            [*keep, "sleep", "infinity"], stdin=subprocess.DEVNULL, start_new_session=True
        )
        children = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        try:
            poll(lambda: self._outer.poll() is not None or self._inside(children), "a namespace")
            if self._outer.poll() is not None:
                raise OSError(f"unshare ended with {self._outer.returncode}")
        except BaseException:
            self.end()
            raise
        self.pid = int(children.read_text())

    @staticmethod
    def _inside(children: Path) -> bool:
        with suppress(OSError):
            pid = children.read_text().strip()
            return bool(pid) and Path(f"/proc/{pid}/comm").read_text().strip() == "sleep"
        return False

    def words(self, *command: object, cwd: Path | str = "/") -> list[str]:
        """The command line that runs `command` inside, in folder `cwd`."""
        enter = ["nsenter", "-t", str(self.pid), *self.namespaces]
        return [*enter, *((f"--wd={cwd}",) if "-m" in self.namespaces else ()), *map(str, command)]

    def do(self, script: str) -> str:
        """Run a line of shell inside; return what it prints.

        Raises:
            RuntimeError: it fails.
        """
        done = subprocess.run(
            self.words("sh", "-ec", script), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{script}: {done.stderr.strip()}")
        return done.stdout

    def end(self) -> None:
        """Power off: everything inside is killed."""
        with suppress(ProcessLookupError):
            os.killpg(self._outer.pid, signal.SIGKILL)  # the keeper, whose child goes with it
        self._outer.wait()


class Host(Space):
    """A machine of the lab."""

    def __init__(self, name: str, number: int, folder: Path) -> None:
        super().__init__(*HOST_NAMESPACES)
        self.name, self.number = name, number
        self._names = folder / f"names-{name}"
        self._names.touch()
        self.do(
            f"hostname {name}; mount --bind {self._names} /etc/hosts; ip link set lo up; "
            "mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /dev/shm; mkdir -p /run/sshd; "
            # /sys shows the network of the namespace that it was mounted in; Slurm wants the rest of it.
            "mkdir /run/cgroup; mount --rbind /sys/fs/cgroup /run/cgroup; mount -t sysfs sysfs /sys; "
            "mount --rbind /run/cgroup /sys/fs/cgroup; "
            # UCX, below MPICH, takes processes of one boot for neighbours that share memory.
            "cat /proc/sys/kernel/random/uuid > /run/boot; "
            "mount --bind /run/boot /proc/sys/kernel/random/boot_id"
        )

    def address(self, network: int = 0) -> str:
        """Its address on a network."""
        return f"10.77.{network}.{self.number}"

    def know(self, names: Sequence[tuple[str, str]]) -> None:
        """Make these (address, name) the lines of its /etc/hosts."""
        lines = [("127.0.0.1", "localhost"), *names]
        self._names.write_text("".join(f"{address} {name}\n" for address, name in lines))


class Lab(AbstractContextManager["Lab"]):
    """Hosts on one network or more; host i has address 10.77.NETWORK.i at its interface ethNETWORK.

    Args:
        names: of the hosts.
        networks: how many each host is on; the first is the one that names stand for.
    """

    def __init__(self, *names: str, networks: int = 1) -> None:
        self._names, self._networks = names, networks
        self._stack = ExitStack()
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> "Lab":
        with ExitStack() as stack:
            where = os.environ.get("CLUSTER_FOLDER", "/var/tmp")
            made = tempfile.TemporaryDirectory(prefix="tttscale-hosts-", dir=where)
            self.folder = Path(stack.enter_context(made))
            self.switch = Space("-n")
            stack.callback(self.switch.end)
            for n in range(self._networks):
                self.switch.do(f"ip link add br{n} type bridge; ip link set br{n} up")
            for number, name in enumerate(self._names, 1):
                host = self.hosts[name] = Host(name, number, self.folder)
                stack.callback(host.end)
                for n in range(self._networks):
                    self._connect(host, n)
            for host in self.hosts.values():
                host.know([(h.address(), h.name) for h in self.hosts.values()])
            self._stack = stack.pop_all()
        return self

    def _connect(self, host: Host, network: int) -> None:
        port = f"v{network}-{host.number}"
        self.switch.do(
            f"ip link add {port} type veth peer name eth{network} netns {host.pid}; "
            f"ip link set {port} master br{network} up"
        )
        host.do(
            f"ip addr add {host.address(network)}/24 dev eth{network}; ip link set eth{network} up"
        )

    def unplug(self, host: Host, network: int) -> None:
        """Pull a cable: frames are lost, and no interface of the host goes down."""
        self.switch.do(f"ip link set v{network}-{host.number} nomaster")

    def plug(self, host: Host, network: int) -> None:
        """Put the cable back."""
        self.switch.do(f"ip link set v{network}-{host.number} master br{network}")

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()


def shell(*words: object, **variables: object) -> str:
    """A command line as somebody types it: `NAME=value bash launch/torchrun.sh ...`."""
    given = [f"{name}={shlex.quote(str(value))}" for name, value in variables.items()]
    return " ".join([*given, shlex.join(map(str, words))])
