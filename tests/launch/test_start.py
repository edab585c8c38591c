"""`tttscale launch torchrun` and the like: which script is run, with which words and variables."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tttscale import cli
from tttscale.launch import start

ROOT = Path(__file__).parents[2]


class Became(BaseException):
    """What this process would have become."""


@pytest.fixture
def launch(monkeypatch):
    def become(program, words, environ):
        raise Became(program, words, environ)

    def command(*words):
        monkeypatch.setattr(os, "execve", become)
        for name in ("N", "VERB", "HOSTFILE"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(Became) as caught:
            cli.main(["launch", *words])
        program, words, environ = caught.value.args
        assert (Path(program).name, words[0]) == ("bash", program)
        script = Path(words[1])
        assert script.samefile(ROOT / "launch" / script.name)
        return script.name, words[2:], environ

    return command


STARTS = {
    "torchrun quickstart": ("torchrun.sh", ["quickstart"], {}),
    "torchrun quickstart -n 4 train.steps=2": (
        "torchrun.sh",
        ["quickstart", "train.steps=2"],
        {"N": "4"},
    ),
    "torchrun c.yaml a=b -- --max-restarts 3 --": (
        "torchrun.sh",
        ["c.yaml", "a=b", "--", "--max-restarts", "3", "--"],
        {},
    ),
    "torchrun --nodes 2 --node-rank 1 --master-addr h --master-port 1 c.yaml": (
        "torchrun.sh",
        ["c.yaml"],
        {"NODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
    ),
    "torchrun --verb profile quickstart --steps 5": (
        "torchrun.sh",
        ["quickstart", "--steps", "5"],
        {"VERB": "profile"},
    ),
    "torchrun --verb doctor -n 2": ("torchrun.sh", [], {"VERB": "doctor", "N": "2"}),
    "deepspeed c.yaml --hostfile hosts": ("deepspeed.sh", ["c.yaml"], {"HOSTFILE": "hosts"}),
    "mpirun c.yaml --ranks 3 -- --bind-to none": (
        "mpirun.sh",
        ["c.yaml", "--", "--bind-to", "none"],
        {"N": "3"},
    ),
    "build-data out texts --heldout 0.1 -n 2": (
        "build_data.sh",
        ["out", "texts", "--heldout", "0.1"],
        {"N": "2"},
    ),
    "quickstart --steps 9": ("quickstart.sh", [], {"QUICKSTART_STEPS": "9"}),
}


@pytest.mark.parametrize("line", STARTS)
def test_a_script_is_run(launch, line):
    script, words, settings = STARTS[line]
    found = launch(*line.split())
    assert found[:2] == (script, words)
    environ = found[2]
    assert environ[start.PYTHON] == sys.executable
    assert {name: environ[name] for name in settings} == settings
    assert [
        name for name in ("N", "VERB", "HOSTFILE") if name in environ and name not in settings
    ] == []


def test_variables_count_where_no_option_is_given(launch, monkeypatch):
    monkeypatch.setenv("MPIRUN_ARGS", "--oversubscribe")
    assert launch("mpirun", "c.yaml")[2]["MPIRUN_ARGS"] == "--oversubscribe"


def refused(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        cli.main(["launch", *words])
    return caught.value.code, capsys.readouterr().err


def test_without_bash_it_says_so(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/nowhere")
    code, said = refused(capsys, "torchrun", "quickstart")
    assert code == 69
    assert "there is none on the PATH" in said


def test_without_its_scripts_it_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(start, "SCRIPTS", tmp_path)
    code, said = refused(capsys, "torchrun", "quickstart")
    assert code == 69
    assert f"{tmp_path}/torchrun.sh" in said


def test_two_ranks_start_wherever_it_is_called_from(tmp_path):
    """The real torchrun beside this interpreter, with a PATH that leads to none."""
    done = subprocess.run(
        [sys.executable, "-m", "tttscale", "launch", "torchrun", "quikstart", "-n", "2"],
        cwd=tmp_path,
        env=os.environ | {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("error: cannot read the configuration quikstart") >= 1
    assert "like it: quickstart" in done.stderr


@pytest.mark.parametrize("script", ["torchrun.sh", "deepspeed.sh", "mpirun.sh"])
def test_a_script_takes_the_python_that_it_is_told_of(tmp_path, script):
    """Programs beside it come first; but the site's mpirun comes before that of an environment."""
    own, site = tmp_path / "own/bin", tmp_path / "site"
    log = tmp_path / "log"
    for folder in (own, site):
        folder.mkdir(parents=True)
        for name in ("python3", "torchrun", "deepspeed", "mpirun"):
            (folder / name).write_text(
                f'#!/bin/sh\n{{ echo "$0"; printf "%s\\n" "$@"; }} > {log}\n'
            )
            (folder / name).chmod(0o755)

    def started():
        subprocess.run(
            ["bash", ROOT / "launch" / script, "c.yaml"],
            env={"PATH": f"{site}:/usr/bin:/bin", start.PYTHON: str(own / "python3")},
            check=True,
            capture_output=True,
        )
        return log.read_text().splitlines()

    is_mpi = script == "mpirun.sh"
    (own.parent / "pyvenv.cfg").touch()
    program, *words = started()
    assert program == str((site if is_mpi else own) / script.removesuffix(".sh"))
    assert words[-3:] == ["tttscale", "train", "c.yaml"]
    if is_mpi:
        assert str(own / "python3") in words
