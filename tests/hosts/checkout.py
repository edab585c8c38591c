"""Checkouts of this source, each with a .venv of its own over the packages of the tests' environment."""

import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ("launch", "tttscale", "kernels", "configs")
PROGRAMS = ("torchrun", "deepspeed", "tttscale")
OPEN_MPI = ("mpirun", "mpiexec", "prte", "prted", "prterun", "ompi_info", "ompirun_wrapper")
MPICH = "mpich==5.0.2"


def make_checkout(folder: Path, open_mpi: bool = True) -> Path:
    """Copy the source to `folder`, with .venv as launch/install.sh makes it.

    Args:
        folder: is made.
        open_mpi: whether its .venv holds mpirun.
    """
    skip = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in SOURCE:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=skip)
    own = folder / ".venv"
    venv.create(own, symlinks=True)
    library = own / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = [p for p in site.getsitepackages() if Path(p).is_dir()]
    lines = [str(folder), *(f"import site; site.addsitedir({p!r})" for p in packages)]
    # The folder is named first: it wins over an editable installation among the packages.
    (library / "site-packages/checkout.pth").write_text("\n".join(lines) + "\n")
    theirs = Path(sys.prefix) / "bin"
    for name in PROGRAMS:
        _, rest = (theirs / name).read_text().split("\n", 1)
        (own / "bin" / name).write_text(f"#!{own}/bin/python\n{rest}")
        (own / "bin" / name).chmod(0o755)
    for name in OPEN_MPI if open_mpi else ():
        (own / "bin" / name).symlink_to((theirs / name).resolve())
    return folder


def add_mpich(checkout: Path) -> Path:
    """Install MPICH into a checkout's .venv; its programs have the names of Open MPI's."""
    pip = [str(checkout / ".venv/bin/python"), "-m", "pip", "--disable-pip-version-check", "-qq"]
    subprocess.run([*pip, "install", MPICH], check=True)
    return checkout
