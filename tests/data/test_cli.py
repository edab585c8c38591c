"""`tttscale data ...`, from the words of a command to what it says."""

import json
import shlex

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from tests.data.ids.writers import write_megatron, write_nanoset, write_npy
from tests.docs.pages import ROOT, block_commands
from tttscale import cli
from tttscale.data import open_store
from tttscale.files import digest_of

IDS = [[256, *b"hi", 257], [256, *b"!", 257]]
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(capsys):
    def run_command(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments)
        printed = capsys.readouterr()
        return caught.value.code, printed.out, printed.err

    return run_command


def test_data_build_and_info(run, tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.py").write_text("print(1)")
    (text / "b.md").write_text("two")
    (text / "c.bin").write_text("not taken")
    out = str(tmp_path / "store")
    options = ["--suffix", ".py", "--suffix", ".md", "--heldout", "0.1"]
    code, said, _ = run("data", "build", out, str(text), *options)
    assert code == 0
    assert said.startswith(f"{out}: 2 documents, 15 tokens of 11 bytes of text in ")
    code, said, _ = run("data", "info", out)
    assert code == 0
    assert "bytes (259 ids" in said
    code, _, err = run("data", "info", str(tmp_path / "nowhere"))
    assert code == 65
    assert "nowhere" in err


def test_data_build_leaves_out_what_is_not_utf8(run, tmp_path):
    tokenizer = tmp_path / "tokenizer.json"
    Tokenizer(WordLevel({"good": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tokenizer))
    (tmp_path / "a.txt").write_text("good")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    (tmp_path / "c.txt").write_text("good")
    command = ["data", "build", str(tmp_path / "store"), *map(str, sorted(tmp_path.glob("*.txt")))]
    command += ["--tokenizer", str(tokenizer)]
    code, _, err = run(*command)
    assert code == 65
    assert "--skip-undecodable" in err
    code, said, _ = run(*command, "--skip-undecodable")
    assert code == 0
    assert "2 documents, 1 skipped, 2 tokens of 8 bytes" in said


def test_data_build_shows_progress_on_a_terminal(run, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    code, said, err = run("data", "build", str(tmp_path / "store"), str(tmp_path / "a.txt"))
    assert (code, said.count("\n")) == (0, 1)
    assert "M tokens, " in err


def test_data_build_shows_no_bar_in_the_log_of_mpirun(run, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    for name, value in (("RANK", 0), ("SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_SIZE", 1)):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))
    code, _, err = run("data", "build", str(tmp_path / "store"), str(tmp_path / "a.txt"))
    assert (code, err) == (0, "")


def test_data_verify_names_damage_and_sets_it_apart(run, tmp_path):
    (tmp_path / "a.txt").write_text("some text " * 100)
    store = str(tmp_path / "store")
    assert run("data", "build", store, str(tmp_path / "a.txt"))[0] == 0
    code, said, _ = run("data", "verify", store, "--workers", "1")
    assert code == 0
    assert said.endswith("\nwhole\n")
    kept = (tmp_path / "store/train/tokens/c/0").rename(tmp_path / "kept")
    report = tmp_path / "report.json"
    code, said, err = run("data", "verify", store, "--workers", "1", "--report", str(report))
    assert code == 65
    assert "DAMAGED  train/tokens/c/0 [0, 1,002): is missing" in said
    assert "--quarantine" in err
    assert json.loads(report.read_text())["damages"][0]["end"] == 1002
    code, said, _ = run("data", "verify", store, "--workers", "1", "--quarantine")
    assert code == 0
    assert "quarantined: 1,002 tokens in 1 ranges" in said
    code, _, err = run("data", "verify", store, "--workers", "1")
    assert (code, "--quarantine" in err) == (65, False)
    assert "all of that is quarantined. Train with data.damaged=pad" in err
    code, said, _ = run("data", "info", store)
    assert code == 0
    assert "quarantined 1,002 tokens of train in 1 ranges, found 2" in said
    kept.rename(tmp_path / "store/train/tokens/c/0")
    code, said, _ = run("data", "verify", store, "--workers", "1")
    assert code == 0
    assert "is whole, but quarantine.json lists ranges of it" in said


def test_data_tokenizer_serves_a_build(run, tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat on the mat " * 50)
    tokenizer, source = str(tmp_path / "t.json"), str(tmp_path / "a.txt")
    code, said, _ = run("data", "tokenizer", tokenizer, source, "--vocab", "300")
    assert (code, said.startswith(f"{tokenizer}: ")) == (0, True)
    code, _, err = run("data", "tokenizer", tokenizer, source)
    assert code == 65
    assert "already exists" in err
    code, _, err = run("data", "tokenizer", str(tmp_path / "u.json"), source, "--vocab", "99")
    assert code == 65
    assert "--vocab 99" in err
    code, _, err = run("data", "tokenizer", str(tmp_path / "u.json"), source, "--vocab", "many")
    assert code == 64
    assert "--vocab 'many'" in err
    out = str(tmp_path / "store")
    code, said, _ = run("data", "build", out, source, "--tokenizer", tokenizer)
    assert code == 0
    tokens = int(said.split("documents, ")[1].split(" tokens")[0].replace(",", ""))
    assert tokens < 1150 / 3  # merges were learned


@pytest.mark.parametrize("kind", ["npy", "bin", "ds"])
def test_data_import_ids(run, tmp_path, kind):
    write = {
        "npy": lambda: write_npy(tmp_path / "a.npy", IDS),
        "bin": lambda: write_megatron(tmp_path / "a", IDS).with_suffix(""),  # as Megatron names it
        "ds": lambda: write_nanoset(tmp_path / "a.ds", IDS),
    }
    source, out = str(write[kind]()), str(tmp_path / "store")
    command = ["data", "import-ids", out, source, "--heldout", "0"]
    code, said, _ = run(*command, "--tokenizer", "bytes")
    assert code == 0
    assert said.startswith(f"{out}: 2 documents, 7 tokens of 1 files in ")
    code, said, _ = run("data", "info", out)
    assert code == 0
    assert "7 uint16" in said
    assert f"blake2b {digest_of((tmp_path / f'a.{kind}').read_bytes())} " in said
    code, said, _ = run("data", "verify", out)
    assert code == 0
    store = open_store(out)
    assert store.split("train").document_starts.tolist() == [0, 4]
    assert store.tokenizer().decode(store.split("train").read(0, 7)) == "hi!"


def test_data_import_ids_without_the_tokenizer(run, tmp_path):
    source = write_npy(tmp_path / "a.npy", [[7, 8, 2], [9, 2]])
    command = ["data", "import-ids", str(tmp_path / "store"), str(source)]
    code, _, err = run(*command)
    assert code == 65
    assert "--tokenizer, --vocab-size: give one of them" in err
    code, _, err = run(*command, "--vocab-size", "9")
    assert code == 65
    assert "a.npy: id 9, outside [0, 9)" in err
    assert not (tmp_path / "store").exists()
    code, said, _ = run(*command, "--vocab-size", "1k", "--eos", "2", "--heldout", "0.5")
    assert code == 0
    assert said.splitlines()[1] == "bos none, not given; eos 2, --eos; pad none, not given"


@pytest.mark.slow
def test_the_commands_of_the_docs(run, tmp_path, monkeypatch):
    """Those of "Ready token ids" in docs/your_text.md, as they are there."""
    monkeypatch.chdir(tmp_path)
    for name in ("llama-2", "pile", "web", "datatrove"):
        (tmp_path / name).mkdir()
    vocab = {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "[UNK]": 4}
    Tokenizer(WordLevel(vocab, unk_token="[UNK]")).save("llama-2/tokenizer.json")
    documents = [[0, 2, 3, 1], [0, 3, 1]]
    write_npy(tmp_path / "pile/train.npy", documents)
    write_megatron(tmp_path / "web/text_document", documents, "int32")
    write_nanoset(tmp_path / "datatrove/a.ds", documents)
    np.array([5, 50256, 6, 7, 50256], np.uint16).tofile("train.bin")
    lines = [line for line in block_commands(ROOT / "docs/your_text.md") if "import-ids" in line]
    assert len(lines) == 4
    for line in lines:
        words = shlex.split(line)
        code, said, err = run(*words[1:])
        assert code == 0, err
        assert f"{words[3]}: 2 documents" in said
        assert open_store(words[3]).split("train").num_tokens >= 2
