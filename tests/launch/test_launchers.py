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


class Checkout:
    """A checkout with a .venv of stubs, and another folder that its scripts are called from."""

    def __init__(self, folder):
        self.root, self.elsewhere, self.log = folder / "checkout", folder / "else", folder / "log"
        self.bin = self.root / ".venv" / "bin"
        self.bin.mkdir(parents=True)
        self.elsewhere.mkdir()
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
            env={"PATH": SYSTEM_PATH, **env},
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
    tools = checkout.elsewhere / "tools"
    tools.mkdir()
    for name in ("bash", "dirname"):
        (tools / name).symlink_to(shutil.which(name) or name)
    done = checkout.call(script, "c.yaml", check=False, PATH=str(tools))
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
    job = {"SLURM_JOB_NODELIST": "node[0-30000]", "PATH": f"{checkout.bin}:{SYSTEM_PATH}"}
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
