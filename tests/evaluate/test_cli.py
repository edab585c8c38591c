"""`tttscale eval`: its words, its files, its mistakes."""

import json
from functools import partial

import pytest


@pytest.fixture
def run(command):
    return partial(command, "eval")


def test_a_run_is_measured(run, trained_run):
    code, out, err = run(trained_run, "--split", "train", "--length", 512, "--sequences", 3)
    assert code == 0, err
    assert "over 3 sequences of 512 tokens" in out
    assert "bits per byte" in out
    folder = trained_run / "eval"
    assert sorted(p.name for p in folder.iterdir()) == [
        "eval.json",
        "eval.md",
        "loss_by_position.png",
    ]
    report = json.loads((folder / "eval.json").read_text())
    assert report["model"]["trained_tokens"] == 256
    assert report["tasks"]["loss"]["positions"]["edges"][-1] == 512
    assert "beyond the 256 tokens" in (folder / "eval.md").read_text()


def test_tasks_and_lengths(run, trained_run, tmp_path):
    words = ["--task", "recall", "--task", "passkey", "--lengths", "256, 512", "--samples", 2]
    code, out, err = run(trained_run, *words, "--depths", 2, "--out", tmp_path / "x")
    assert code == 0, err
    assert out.count("above chance") == 2
    report = json.loads((tmp_path / "x/eval.json").read_text())
    assert list(report["tasks"]) == ["passkey", "recall"]
    assert len(report["tasks"]["passkey"]["cells"]) == 4


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--task", "nosuch"], 64, "The tasks are loss"),
        (["--lengths", "1Ki,many"], 64, "--lengths 'many'"),
        (["--length", "0"], 64, "--length '0'"),
        (["--chunk", "24", "--split", "train"], 64, "--chunk 24 is not a multiple of 16"),
        (["--split", "train", "--length", "1Mi"], 65, "too few for one sequence"),
        (["--split", "train", "--sequences", "999"], 65, "--sequences 999: there are"),
        (["--store", "nosuch"], 65, "nosuch"),
    ],
)
def test_mistakes(run, trained_run, tmp_path, words, code, said):
    found, _, err = run(trained_run, *words, "--out", tmp_path)
    assert found == code
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_no_weights(run, tmp_path):
    code, _, err = run(tmp_path)
    assert code == 66
    assert "holds no" in err


def test_a_folder_that_cannot_be_written_is_found_first(run, trained_run, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = run(trained_run, "--out", tmp_path / "file")
    assert code == 64
    assert "is not a folder" in err
