"""What a shell is told, asked as bash and zsh ask it: through variables of the command itself."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tttscale.config.completion import (
    complete_config,
    complete_name,
    complete_override,
    complete_words,
)
from tttscale.config.shipped import shipped
from tttscale.supervise.supervisor import is_wanted


@pytest.fixture
def here(tmp_path, monkeypatch):
    for name in ("mine.yaml", "notes.txt", ".hidden.yaml", "qa.yml"):
        (tmp_path / name).touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/other.yaml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_names_and_files(here):
    assert complete_config("") == [*shipped(), "deep/", "mine.yaml", "qa.yml"]
    assert complete_config("q") == ["quickstart", "qa.yml"]
    assert complete_config("deep/") == ["deep/other.yaml"]
    assert complete_config(f"{here}/m") == [f"{here}/mine.yaml"]
    assert complete_config(".h") == [".hidden.yaml"]
    assert complete_config("none/x") == []
    assert complete_name("ttt-mlp-125m-8") == ["ttt-mlp-125m-8Ki"]


def test_keys():
    assert complete_override("train.lr") == ["train.lr=", "train.lr_final=", "train.lr_schedule="]
    assert complete_override("data.bl") == ["data.blend="]
    assert complete_override("logging.wandb.m") == ["logging.wandb.mode="]
    assert "model.hidden_size=" in complete_override("")
    assert complete_override("nothing") == []


def test_words_of_a_launcher(here):
    assert complete_words("") == complete_config("")
    assert complete_words("q") == ["quickstart", "qa.yml"]
    assert complete_words("train.ste") == ["train.steps="]


def ask(shell, line, **variables):
    """Answer of the command to a line that ends where the cursor is."""
    words = shlex.split(line) + [""] * line.endswith(" ")
    asked = {
        "bash": {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
    }
    done = subprocess.run(
        [sys.executable, "-m", "tttscale"],
        env=os.environ | asked[shell] | {"_TTTSCALE_COMPLETE": f"complete_{shell}"} | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_asks(shell, here):
    env = {"PYTHONPATH": str(Path(__file__).parents[2])}
    said = ask(shell, "tttscale pl", **env)
    assert "plan" in said
    assert "train" not in said
    said = ask(shell, "tttscale train quick", **env)
    assert "quickstart" in said
    # A place among the ranks of a job changes nothing: no supervisor, no rank.
    assert not is_wanted([], {"RANK": "0", "WORLD_SIZE": "2"})
    said = ask(shell, "tttscale train quickstart train.lr_f", RANK="0", WORLD_SIZE="2", **env)
    assert "train.lr_final=" in said


def test_the_script_of_bash_is_one(here):
    done = subprocess.run(
        [sys.executable, "-m", "tttscale", "--show-completion", "bash"],
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "complete -o default -F _tttscale_completion tttscale" in done.stdout
    bash = shutil.which("bash")
    subprocess.run([bash, "-n"], input=done.stdout, text=True, check=True)
