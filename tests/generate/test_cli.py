"""The verb: text on stdout, all else on stderr; a state of one process continues in another."""

import errno
import io
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch

from tests.trained import byte_model
from tttscale.cluster import discover
from tttscale.generate import main
from tttscale.model import TTTForCausalLM
from tttscale.tensors import open_tensors


@pytest.fixture
def run(command):
    return partial(command, "generate")


@pytest.fixture
def untrained(tmp_path):
    folder = tmp_path / "model"
    byte_model("mlp").save_pretrained(folder)
    return folder


def process(*arguments, **options):
    command = [sys.executable, "-m", "tttscale", "generate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=300, **options)


def test_a_trained_run_writes_what_its_whole_forward_would(run, trained_run):
    code, text, figures = run(trained_run, "the cat", "--tokens", 30, "--temperature", 0)
    model, ids = TTTForCausalLM.from_pretrained(trained_run / "final"), [256, *b"the cat"]
    for _ in range(30):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == 257:
            break
    wanted = bytes(i for i in ids[8:] if i < 256).decode(errors="replace")
    assert (code, text) == (0, wanted + "\n")
    assert f"model {trained_run / 'final'}, tokenizer bytes" in figures
    assert "read 8 tokens in" in figures
    assert "generated 30 tokens in" in figures


@pytest.mark.parametrize("length", [20, 47])  # K = 16; 1 + 47 ends a mini-batch
def test_a_state_of_one_process_continues_in_another(trained_run, tmp_path, length):
    first, second = ("the cat sat on the mat. the dog ran after the cat"[:length], " and then")
    drawn = ["--tokens", 25, "--seed", 3, "--top-k", 20]
    whole = process(trained_run, first + second, *drawn)
    assert whole.returncode == 0, whole.stderr
    state = tmp_path / "book.state"
    reading = process(trained_run, first, "--tokens", 0, "--save-state", state)
    assert (reading.returncode, reading.stdout) == (0, b""), reading.stderr
    assert f"state after {length + 1} tokens: {state}" in reading.stderr.decode()
    before = state.read_bytes()
    for _ in range(2):
        asking = process(trained_run, second, *drawn, "--load-state", state)
        assert asking.stdout == whole.stdout
        assert f", after {length + 1} tokens" in asking.stderr.decode()
    assert state.read_bytes() == before


def test_a_state_after_a_reply_continues_it(run, untrained, tmp_path):
    flags = ["--tokenizer", "bytes", "--temperature", 0]
    _, whole, _ = run(untrained, "abc", "--tokens", 30, "--stop", "\n\n\n", *flags)
    state = tmp_path / "s"
    _, first, _ = run(untrained, "abc", "--tokens", 10, "--save-state", state, *flags)
    code, _, said = run(untrained, "x", "--tokens", 3, "--load-state", state, *flags)
    assert code == 0
    assert ", after 14 tokens" in said
    assert whole.startswith(first.rstrip("\n\ufffd"))


def test_a_prompt_from_a_file_or_stdin(run, untrained, tmp_path, monkeypatch):
    flags = ["--tokenizer", "bytes", "--tokens", 12]
    text = "x\u20ac" * 20
    (tmp_path / "p.txt").write_text(text, encoding="utf-8")
    wanted = run(untrained, text, *flags)[1]
    assert run(untrained, "--file", tmp_path / "p.txt", *flags)[1] == wanted
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert run(untrained, "-", *flags)[1] == wanted
    assert run(untrained, text, "--no-stream", *flags)[1] == wanted
    assert run(untrained, text, "--seed", 1, *flags)[1] != wanted
    assert run(untrained, text, "--threads", 1, *flags)[1] == wanted
    code, not_utf8, said = run(untrained, os.fsdecode(b"a\xff"), *flags)
    assert (code, "read 3 tokens" in said) == (0, True)
    assert not_utf8


def test_a_longer_stdin_than_can_be_held_is_not_cut(run, untrained, monkeypatch):
    monkeypatch.setattr(main, "_PROMPT_BYTES", 4)
    for text, code in ((b"abcd", 0), (b"abcde", 65)):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        found, _, said = run(untrained, "-", "--tokenizer", "bytes", "--tokens", 1)
        assert found == code
        assert ("stdin: more than 4 bytes. Read the text in parts" in said) == bool(code)


def test_a_conversation_keeps_its_state(run, untrained, monkeypatch):
    flags = ["--tokenizer", "bytes", "--tokens", 8, "--temperature", 0]
    lines = io.BytesIO(b"two\nthree\r\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines))
    code, text, said = run(untrained, "one", "-i", *flags)
    model, ids, shown = TTTForCausalLM.from_pretrained(untrained), [256], ""
    for line in (b"one", b"two", b"three"):
        reply = model.generate([[*ids, *line]], max_new_tokens=8, stop_ids=[257]).ids[0]
        ids += [*line, *(i for i in reply if i != 257)]
        shown += bytes(i for i in reply if i < 256).decode(errors="replace") + "\n"
    assert (code, text) == (0, shown)
    assert "generated 24 tokens" in said


@pytest.mark.parametrize("earlier", [None, "an earlier state"])
def test_a_conversation_without_a_line_leaves_no_state(
    run, untrained, tmp_path, monkeypatch, earlier
):
    state = tmp_path / "s"
    if earlier:
        state.write_text(earlier)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    code, text, said = run(untrained, "-i", "--tokenizer", "bytes", "--save-state", state)
    assert (code, text) == (0, "")
    assert f"nothing has been read, so {state} is not written" in said
    assert state.read_text() == earlier if earlier else not state.exists()


def test_ctrl_c_stops_a_reply_and_ctrl_d_ends(trained_run):
    command = [sys.executable, "-m", "tttscale", "generate", str(trained_run), "-i"]
    with subprocess.Popen(
        [*command, "--tokens", "100000000", "--temperature", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(b"the cat\n")
        child.stdin.flush()
        for _ in range(3):
            assert os.read(child.stdout.fileno(), 1)
        child.send_signal(signal.SIGINT)
        lines = iter(child.stderr.readline, b"")
        assert any(line == b"stopped\n" for line in lines)
        _, said = child.communicate(timeout=300)
        assert child.returncode == 0
    assert b"generated" in said


MISTAKES = {
    "two prompts": (["MODEL", "a", "--file", "b"], "PROMPT and --file b: give one of them"),
    "no such file": (["MODEL", "--file", "nowhere"], "--file nowhere: No such file"),
    "no such model": (["nowhere", "a"], "nowhere is no folder. Give a run's folder"),
    "no tokenizer": (["MODEL", "a"], "Name its tokenizer with --tokenizer"),
    "temperature": (["MODEL", "a", "--temperature", "-1"], "temperature (--temperature) = -1.0"),
    "top_p": (["MODEL", "a", "--top-p", "2"], "top_p (--top-p) = 2.0: expected a share"),
    "no folder for the state": (
        ["MODEL", "a", "--save-state", "nowhere/s"],
        "--save-state nowhere/s: its folder does not exist",
    ),
    "a folder for the state": (["MODEL", "a", "--save-state", "."], "--save-state .: is a folder"),
    "no state": (
        ["MODEL", "a", "--tokenizer", "bytes", "--load-state", "nowhere"],
        "nowhere: No such file",
    ),
    "stdin twice": (["MODEL", "-", "-i"], "- and -i: both read stdin"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(run, untrained, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, said = MISTAKES[name]
    code, text, errors = run(*(untrained if word == "MODEL" else word for word in words))
    assert code not in (0, 70)
    assert text == ""
    assert said in errors


def test_a_state_of_another_model(run, untrained, trained_run, tmp_path):
    state = tmp_path / "s"
    assert run(trained_run, "a", "--tokens", 1, "--save-state", state)[0] == 0
    code, _, said = run(untrained, "a", "--tokenizer", "bytes", "--load-state", state)
    assert code == 66
    assert "is the state of another model: that of fingerprint" in said


def test_a_state_that_cannot_be_written(run, untrained, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tttscale.generate.state_file.save_state", full)
    state = tmp_path / "s"
    flags = ["--tokenizer", "bytes", "--tokens", 1, "--save-state", state]
    code, _, said = run(untrained, "a", *flags)
    assert code == 74
    assert f"--save-state {state}: No space left on device" in said


def test_several_rows_are_for_python(run, untrained, tmp_path):
    from tttscale.data.tokenizers.tokenizer import ByteTokenizer
    from tttscale.generate import fingerprints, save_state

    model = TTTForCausalLM.from_pretrained(untrained)
    state = model.generate([[1], [2]], max_new_tokens=0).state
    save_state(tmp_path / "s", state, fingerprints(model, ByteTokenizer()))
    code, _, said = run(untrained, "a", "--tokenizer", "bytes", "--load-state", tmp_path / "s")
    assert code == 64
    assert "it has 2 rows" in said


def test_a_conversation_is_with_one_process(run, untrained, monkeypatch):
    monkeypatch.setattr("tttscale.generate.main.join", discover)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    code, _, said = run(untrained, "a", "-i")
    assert code == 69
    assert "-i talks with one process, and a launcher has started 2" in said


@pytest.mark.parametrize("length", [20, 47])
def test_a_state_continues_without_a_prompt(run, trained_run, tmp_path, length):
    text, greedy = (
        "the cat sat on the mat. the dog ran after the cat"[:length],
        ["--temperature", 0],
    )
    whole = run(trained_run, text, "--tokens", 25, *greedy)[1]
    state = tmp_path / "s"
    assert run(trained_run, text, "--tokens", 0, "--save-state", state)[0] == 0
    code, found, said = run(trained_run, "--load-state", state, "--tokens", 25, *greedy)
    assert (code, found) == (0, whole)
    assert "read 0 tokens in 0.00 s, generated 25 tokens" in said


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_parameters_with_a_state(run, trained_run, tmp_path, dtype):
    state, flags = tmp_path / "s", ["--dtype", dtype, "--device", "cpu", "--temperature", 0]
    _, whole, said = run(trained_run, "the cat sat", "--tokens", 8, *flags)
    assert f"final ({dtype}), tokenizer bytes" in said
    assert run(trained_run, "the cat", "--tokens", 0, "--save-state", state, *flags)[0] == 0
    with open_tensors(state) as file:
        assert set(file.dtypes.values()) == {"I64", "F32"}
    assert run(trained_run, " sat", "--tokens", 8, "--load-state", state, *flags)[1] == whole
    code, _, said = run(trained_run, " sat", "--load-state", state)  # in fp32
    assert code == 66
    assert "is the state of another model" in said
    assert "Load the model that it was saved with, in the same --dtype, or read" in said


def test_the_dtype_of_the_folder(run, tmp_path):
    byte_model().bfloat16().save_pretrained(tmp_path / "m")
    _, text, said = run(tmp_path / "m", "abc", "--tokenizer", "bytes", "--tokens", 5)
    assert "(bfloat16)" in said
    wide = run(tmp_path / "m", "abc", "--tokenizer", "bytes", "--tokens", 5, "--dtype", "float32")
    assert "bfloat16" not in wide[2]
    assert wide[0] == 0
    assert text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(run, untrained):
    code, _, said = run(untrained, "a", "--tokenizer", "bytes", "--device", "cuda")
    assert code == 69
    assert "--device = cuda: local rank 0 needs a GPU, this host has 0" in said
