"""The verb under a launcher: the bytes and the state of one process, text from one rank, ends together."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trained import byte_model
from tests.warm import tttscale
from tttscale.errors import LaunchError
from tttscale.generate.main import _check_same

ROOT = Path(__file__).parents[2]
MPIRUN = Path(sys.executable).parent / "mpirun"
TEXT = "".join(f"{number} sheep, " for number in range(700))  # more than four chunks of 2,048 bytes
GREEDY = ("--tokenizer", "bytes", "--temperature", "0", "--tokens", "12")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, a book, and what one process makes of them: bytes of the reply and of the state."""
    root = tmp_path_factory.mktemp("split")
    torch.set_num_threads(1)
    byte_model("mlp", mini_batch_size=16).save_pretrained(root / "model")
    (root / "book.txt").write_text(TEXT)
    done = tttscale("generate", *words(root, "one.state"))
    assert done.returncode == 0, done.stderr
    (root / "reply").write_text(done.stdout)
    return root


def words(root, state, *more):
    book = ("--file", root / "book.txt", "--save-state", root / state, "--threads", "1")
    return [str(word) for word in (root / "model", *book, *GREEDY, *more)]


def check(folder, done, state, ranks):
    assert done.returncode == 0, done.stderr
    assert done.stdout == (folder / "reply").read_text()
    assert (folder / state).read_bytes() == (folder / "one.state").read_bytes()
    assert done.stderr.count("state after") == 1
    assert done.stderr.count("model ") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_by_hand(folder, ranks):
    done = tttscale("generate", *words(folder, f"{ranks}.state"), ranks=ranks)
    check(folder, done, f"{ranks}.state", ranks)


def environ():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_under_torchrun(folder):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *launcher, "-m", "tttscale", "generate", *words(folder, "t.state")]
    done = subprocess.run(command, env=environ(), capture_output=True, text=True, check=False)
    check(folder, done, "t.state", 2)


@pytest.mark.skipif(not MPIRUN.exists(), reason="the extra `dev` brings mpirun")
def test_under_mpirun(folder):
    launcher = [MPIRUN, "--allow-run-as-root", "--oversubscribe", "-n", "2"]
    command = [*launcher, sys.executable, "-m", "tttscale", "generate", *words(folder, "m.state")]
    done = subprocess.run(
        command, env=environ(), capture_output=True, text=True, timeout=240, check=False
    )
    check(folder, done, "m.state", 2)


def test_a_short_prompt_and_a_state_that_is_continued(folder):
    flags = (folder / "model", "--load-state", folder / "one.state", *GREEDY)
    alone = tttscale("generate", *map(str, flags), " and then")
    assert alone.returncode == 0, alone.stderr
    assert tttscale("generate", *map(str, flags), " and then", ranks=2).stdout == alone.stdout
    longer = ("--file", folder / "book.txt")
    alone = tttscale("generate", *map(str, (*flags, *longer)), "--threads", "1")
    split = tttscale("generate", *map(str, (*flags, *longer)), "--threads", "1", ranks=2)
    assert split.returncode == 0, split.stderr
    assert split.stdout == alone.stdout


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        (["--file", "nowhere"], 65, "--file nowhere: No such file"),
        (["--tokenizer", "nothing"], 65, "nothing"),
        (["--top-p", "2"], 64, "top_p (--top-p) = 2.0"),
        (["--load-state", "nowhere"], 66, "nowhere: No such file"),
        (["--save-state", "nowhere/s"], 64, "its folder does not exist"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_mistakes_end_all_ranks(folder, changed, code, said):
    done = tttscale("generate", *words(folder, "x.state", *changed), ranks=2, timeout_seconds=120)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_other_weights_on_a_rank():
    _check_same(["a", "a"])
    with pytest.raises(LaunchError, match=r"model of rank 1 \(fingerprint b\) differs from rank 0"):
        _check_same(["a", "b", "a"])
