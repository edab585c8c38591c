"""Which processes launch/ starts, where, and with which Python; the launchers themselves are stubs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tttscale.data import open_store

LAUNCH = Path(__file__).parents[2] / "launch"
GPU = LAUNCH.parent / "benchmarks/gpu"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
TOOLS = ("bash", "sh", "cat", "dirname", "env", "readlink", "rm", "seq", "touch")
"""What the scripts need of the system, which may have an MPI of its own."""


class Checkout:
    """A checkout with a .venv of stubs, and another folder that its scripts are called from."""

    def __init__(self, folder):
        self.root, self.elsewhere, self.log = folder / "checkout", folder / "else", folder / "log"
        self.bin = self.root / ".venv" / "bin"
        self.bin.mkdir(parents=True)
        self.elsewhere.mkdir()
        self.tools = folder / "tools"
        self.tools.mkdir()
        for name in TOOLS:
            (self.tools / name).symlink_to(shutil.which(name, path=SYSTEM_PATH) or name)
        shutil.copytree(LAUNCH, self.root / "launch")
        scripts = shutil.ignore_patterns("*.py", "__pycache__")
        shutil.copytree(GPU, self.root / "benchmarks/gpu", ignore=scripts)
        (self.elsewhere / "c.yaml").touch()

    def stub(self, name, *lines, folder=None):
        """A program; by default it writes down its folder, itself and its arguments."""
        path = (folder or self.bin) / name
        noted = f'{{ pwd; echo "$0"; printf "%s\\n" "$@"; }} > {self.log}'
        path.write_text("\n".join(["#!/bin/sh", *(lines or [noted])]))
        path.chmod(0o755)
        return path

    def call(self, script, *words, cwd=None, check=True, **env):
        return subprocess.run(
            ["bash", os.path.relpath(self.root / "launch" / script, cwd or self.elsewhere), *words],
            cwd=cwd or self.elsewhere,
            env={"PATH": str(self.tools), **env},
            capture_output=True,
            text=True,
            check=check,
        )

    @property
    def noted(self):
        return self.log.read_text().splitlines()


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed", "mpirun"])
def test_paths_are_the_callers(launcher, checkout):
    checkout.stub("python", "exit 1")  # deepspeed.sh asks it for a GPU
    started = checkout.stub(launcher)
    checkout.call(f"{launcher}.sh", "c.yaml", "train.steps=2")
    folder, program, *words = checkout.noted
    assert (folder, program) == (str(checkout.elsewhere), str(started))
    assert words[-4:] == ["tttscale", "train", "c.yaml", "train.steps=2"]


def test_deepspeeds_hostfile_is_the_callers(checkout):
    checkout.stub("python", "exit 1")
    checkout.stub("deepspeed")
    checkout.call("deepspeed.sh", "c.yaml", HOSTFILE="hosts")
    assert checkout.noted[0] == str(checkout.elsewhere)
    assert checkout.noted[2:4] == ["--hostfile", "hosts"]


def test_mpirun_starts_the_checkouts_python_on_hosts_with_another_path(checkout):
    python = checkout.stub("python")
    checkout.stub("mpirun", 'test "$1 $2" = "-n 2" && shift 2', 'exec env -i PATH=/usr/bin "$@"')
    checkout.call("mpirun.sh", "c.yaml")
    assert checkout.noted[1:] == [str(python), "-m", "tttscale", "train", "c.yaml"]


OPTIONS = {"torchrun": "TORCHRUN_ARGS", "deepspeed": "DEEPSPEED_ARGS", "mpirun": "MPIRUN_ARGS"}


@pytest.mark.parametrize("launcher", OPTIONS)
def test_options_of_the_launcher_are_handed_on(launcher, checkout):
    """From a variable, cut at spaces and not taken for patterns, and as they are after a --."""
    checkout.stub("python", "exit 1")
    checkout.stub(launcher)
    words = ["c.yaml", "train.steps=2", "--", "--name", "two words"]
    checkout.call(f"{launcher}.sh", *words, **{OPTIONS[launcher]: "--one c.*  --other"})
    noted = checkout.noted
    first = noted.index("--one")
    assert noted[first : first + 5] == ["--one", "c.*", "--other", "--name", "two words"]
    assert noted[-4:] == ["tttscale", "train", "c.yaml", "train.steps=2"]


@pytest.mark.parametrize("launcher", OPTIONS)
def test_a_job_is_looked_at_by_the_same_launcher(launcher, checkout):
    checkout.stub("python", "exit 1")
    checkout.stub(launcher)
    checkout.call(f"{launcher}.sh", VERB="doctor")
    assert checkout.noted[-2:] == ["tttscale", "doctor"]


def test_deepspeed_without_ssh(checkout):
    checkout.stub("python", "exit 1")
    checkout.stub("deepspeed")
    place = {"HOSTFILE": "hosts", "NODE_RANK": "1", "MASTER_ADDR": "host0", "MASTER_PORT": "29600"}
    checkout.call("deepspeed.sh", "c.yaml", **place)
    words = ["--hostfile", "hosts", "--no_ssh", "--node_rank", "1", "--master_addr", "host0"]
    assert checkout.noted[2:12] == [*words, "--master_port", "29600", "--module"]
    done = checkout.call("deepspeed.sh", "c.yaml", check=False, NODE_RANK="1")
    assert done.returncode == 1
    assert "set HOSTFILE and MASTER_ADDR, too" in done.stderr


def test_the_sites_mpirun_comes_before_the_one_that_pip_installed(checkout):
    site, named = checkout.elsewhere / "site", checkout.elsewhere / "named"
    for folder in (site, named):
        folder.mkdir()
        checkout.stub("mpirun", folder=folder)
    checkout.stub("python")
    own = checkout.stub("mpirun")
    activated = f"{checkout.bin}:{checkout.tools}"
    for path, given, taken in (
        (f"{checkout.tools}", None, own),
        (activated, None, own),
        (f"{activated}:{site}", None, site / "mpirun"),
        (f"{activated}:{site}", named / "mpirun", named / "mpirun"),
        (f"{activated}:{site}", own, own),
    ):
        told = {"MPIRUN": str(given)} if given else {}
        done = checkout.call("mpirun.sh", "c.yaml", PATH=path, **told)
        assert checkout.noted[1] == str(taken)
        assert f"mpirun: {taken} (another MPI)" in done.stderr
    own.unlink()
    done = checkout.call("mpirun.sh", "c.yaml", check=False)
    assert (done.returncode, "no mpirun on the PATH: load the site's MPI" in done.stderr) == (
        1,
        True,
    )


def test_ranks_load_the_library_of_the_sites_mpirun(checkout):
    library = checkout.elsewhere / "site/lib/libmpi.so.40"
    programs = checkout.elsewhere / "site/bin"
    for folder in (library.parent, programs):
        folder.mkdir(parents=True)
    library.touch()
    checkout.stub("python")
    noted = f'echo "$MPI4PY_LIBMPI $OMPI_ALLOW_RUN_AS_ROOT" > {checkout.log}'
    checkout.stub("mpirun", OPEN_MPI, noted, folder=programs)
    checkout.call("mpirun.sh", "c.yaml", PATH=f"{programs}:{checkout.tools}")
    root = "1" if os.geteuid() == 0 else ""
    assert checkout.noted == [f"{library} {root}"]


OPEN_MPI = 'test "$1" = --version && { echo "mpirun (Open MPI) 5.0.11"; exit; }'
HOSTS = {
    ("Open MPI", "mpirun"): ["-n", "6", "--host", "a:4,b:2"],
    ("Open MPI", "build_data"): ["-n", "2", "--host", "a:4,b:2"],
    ("MPICH", "mpirun"): ["-n", "6", "-hosts", "a:4,b:2"],
    ("MPICH", "build_data"): ["-n", "2", "-hosts", "a:4,b:2"],
}


@pytest.mark.parametrize(("kind", "script"), HOSTS)
def test_one_file_of_hosts_serves_every_mpi(checkout, kind, script):
    (checkout.elsewhere / "hosts").write_text("# ours\na slots=4\n\nb slots=2")
    checkout.stub("python")
    said = OPEN_MPI if kind == "Open MPI" else 'test "$1" = --version && { echo HYDRA; exit; }'
    checkout.stub("mpirun", said, f'printf "%s\n" "$@" "at $MASTER_ADDR" > {checkout.log}')
    environment = {"HOSTFILE": "hosts", "NCCL_DEBUG": "INFO"}
    given = {"MPIRUN_ARGS": "-x NCCL_DEBUG=WARN", "SECRET": "s"}
    checkout.call(f"{script}.sh", "c.yaml", **environment, **given)
    wanted, noted = HOSTS[kind, script], checkout.noted
    place = noted.index(wanted[2])
    assert noted[:2] + noted[place : place + 2] == wanted
    assert noted[-1] == ("at a" if script == "mpirun" else "at ")
    if kind == "Open MPI":
        handed = [noted[i + 1] for i, word in enumerate(noted) if word == "-x"]
        assert "OMP_NUM_THREADS" in handed
        assert ("MASTER_ADDR" in handed) == (script == "mpirun")
        assert [name for name in handed if "NCCL" in name] == ["NCCL_DEBUG=WARN"]
        assert "SECRET" not in handed
    (checkout.elsewhere / "hosts").write_text("# none\n")
    done = checkout.call(f"{script}.sh", "c.yaml", check=False, **environment)
    assert (done.returncode, done.stderr.count("names no host")) == (1, 1)


def test_a_store_is_built_inside_a_slurm_job(checkout):
    """By mpirun on as many hosts as Slurm gave, or by srun where SRUN_ARGS names its MPI."""
    python = checkout.stub("python")
    for program in ("mpirun", "srun"):
        checkout.stub(program)
    copy = checkout.elsewhere / "slurm_script"  # sbatch runs a copy of the file
    shutil.copy(checkout.root / "launch/build_data.sh", copy)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "4", "SLURM_CPUS_PER_TASK": "16"}

    def submit(**given):
        environment = {"PATH": f"{checkout.bin}:{checkout.tools}", **job, **given}
        subprocess.run(
            ["bash", copy, "out", "texts"], cwd=checkout.root, env=environment, check=True
        )
        return checkout.noted[1:]

    folder = {"SLURM_SUBMIT_DIR": str(checkout.root)}
    rest = [str(python), "-m", "tttscale", "data", "build", "out", "texts"]
    assert submit(**folder) == [str(checkout.bin / "mpirun"), "-n", "4", "-ppn", "1", *rest]
    asked = submit(**folder, SRUN_ARGS="--mpi=pmix")
    words = ["--nodes=4", "--ntasks-per-node=1", "--mpi=pmix"]
    assert asked == [str(checkout.bin / "srun"), *words, *rest]


VERSIONS = {
    "Open MPI": ("mpirun (Open MPI) 5.0.11", ["--map-by", "node", "--bind-to", "none"]),
    "MPICH": ("HYDRA build details:", ["-ppn", "1"]),
}


@pytest.mark.parametrize("kind", VERSIONS)
def test_a_store_is_built_by_the_checkouts_python_with_one_rank_a_host(checkout, kind):
    """From a folder with a folder tttscale in it, which Open MPI would take for the program."""
    version, place = VERSIONS[kind]
    python = checkout.stub("python")
    said = f'test "$1" = --version && {{ echo "{version}"; exit; }}'
    checkout.stub("mpirun", said, f'{{ pwd; printf "%s\\n" "$@"; }} > {checkout.log}')
    (checkout.elsewhere / "tttscale").mkdir()
    given = {"N": "4", "MPIRUN_ARGS": "--hostfile hosts"}
    checkout.call("build_data.sh", "out", "a text.txt", "--heldout", "0.1", **given)
    folder, *words = checkout.noted
    assert folder == str(checkout.elsewhere)
    assert words[:2] == ["-n", "4"]
    assert words[2 : 2 + len(place)] == place
    program = words.index(str(python))
    assert words[program - 2 : program] == ["--hostfile", "hosts"]
    rest = ["-m", "tttscale", "data", "build", "out", "a text.txt", "--heldout", "0.1"]
    assert words[program + 1 :] == rest
    checkout.call("build_data.sh", "store", VERB="verify")
    assert checkout.noted[-3:] == ["data", "verify", "store"]


@pytest.mark.skipif(
    not (Path(sys.executable).parent / "mpirun").exists(), reason="the extra `dev` brings mpirun"
)
def test_two_ranks_build_a_store_from_the_checkout(tmp_path):
    """The real mpirun, in the checkout's folder, on a PATH that leads to no `tttscale`."""
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text("text")
    (texts / "b.txt").write_text("more text")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("python", "mpirun", "prterun", "prted"):
        if (Path(sys.executable).parent / name).exists():
            # Not a link: an environment is found by where its python is.
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{Path(sys.executable).parent / name}" "$@"\n')
            program.chmod(0o755)
    root = LAUNCH.parent
    done = subprocess.run(
        ["bash", "launch/build_data.sh", tmp_path / "out", texts, "--workers", "1"],
        cwd=root,
        env=os.environ
        | {"PATH": f"{programs}:{SYSTEM_PATH}", "PYTHONPATH": str(root)}
        | {"MPIRUN_ARGS": "--allow-run-as-root --oversubscribe"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 documents, 17 tokens of 13 bytes") == 1  # one rank speaks
    assert open_store(tmp_path / "out").info.build.documents_read == 2


@pytest.mark.parametrize("script", ["mpirun.sh", "build_data.sh"])
def test_mpirun_without_a_python_says_so(checkout, script):
    shutil.rmtree(checkout.bin)
    done = checkout.call(script, "c.yaml", check=False)
    assert done.returncode == 1
    assert "no python on the PATH: run bash launch/install.sh" in done.stderr


@pytest.mark.parametrize(("what", "seconds"), [("check", "540"), ("train_check", "300")])
def test_gpu_rounds_use_the_checkouts_python_unless_told_of_another(what, seconds, checkout):
    own, other = checkout.stub("python3"), checkout.stub("other", folder=checkout.elsewhere)
    for python, told in ((own, {}), (other, {"PYTHON": str(other)})):
        checkout.call(f"gpu_{what}.sh", **told)
        words = ["-m", f"benchmarks.gpu.{what}", f"benchmarks/gpu_{what}", seconds]
        assert checkout.noted == [str(checkout.root), str(python), *words]


def test_slurm_starts_the_python_of_the_folder_of_submission(checkout):
    checkout.stub("python")
    checkout.stub("scontrol", "seq -f node%.0f 0 30000")  # more than a pipe holds
    noted = 'pwd; echo "$0"; printf "%s\\n" "$@"; echo "from $MASTER_ADDR"'
    checkout.stub("srun", f"{{ {noted}; }} > {checkout.log}")
    job = {
        "SLURM_JOB_NODELIST": "node[0-30000]",
        "SLURM_JOB_ID": "7",
        "PATH": f"{checkout.bin}:{checkout.tools}",
    }
    checkout.call("slurm.sbatch", "c.yaml", SLURM_SUBMIT_DIR=str(checkout.root), **job)
    words = [".venv/bin/python", "-m", "tttscale", "train", "c.yaml"]
    assert checkout.noted[0] == str(checkout.root)
    assert checkout.noted[-6:-1] == words
    assert checkout.noted[-1] == "from node0"

    refused = checkout.call(
        "slurm.sbatch", "c.yaml", check=False, SLURM_SUBMIT_DIR=str(checkout.elsewhere), **job
    )
    assert refused.returncode == 1
    assert (
        f"{checkout.elsewhere} has no .venv/bin/python: submit from the checkout" in refused.stderr
    )


def test_an_interrupted_installation_is_made_whole(checkout):
    """venv makes the interpreter first; pip comes with a rerun of it."""
    whole = checkout.root / "whole"
    pip = f'test "$2" != pip || test -e {whole} || {{ echo No module named pip >&2; exit 1; }}'
    checkout.stub("python", pip, f'echo "$*" >> {checkout.log}')
    base = checkout.stub("base", f'test "$2" != venv || touch {whole}', folder=checkout.elsewhere)
    checkout.call("install.sh", PYTHON=str(base))
    assert whole.exists()
    assert [line for line in checkout.noted if " install " in line][-1].endswith("-e .")
    assert (checkout.root / ".venv" / ".installed").exists()
