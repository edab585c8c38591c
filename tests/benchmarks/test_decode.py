"""The benchmark of decoding: what it times is right, and its rows say it."""

import json

import torch

from benchmarks import decode


def test_what_is_timed_is_one_forward():
    model, ids = decode.model_of("linear", "mamba"), decode.tokens(40)
    seconds, logits = decode.ours(model, ids, 32)[1]()
    assert seconds > 0
    with torch.no_grad():
        assert (logits - model(ids).logits[0, -1]).abs().max() < 1e-5


def test_the_state_is_as_large_after_any_context(monkeypatch):
    monkeypatch.setattr(decode, "CONTEXTS", (32, 64))
    monkeypatch.setattr(decode.report, "run_worker", worker)
    rows = decode.after_contexts(1)
    assert [row["context"] for row in rows] == ["32", "64"] * 2
    sizes = {row["learner"]: row["state, bytes"] for row in rows}
    assert all(row["state, bytes"] == sizes[row["learner"]] for row in rows)
    assert all(float(row["peak, MiB"].replace(",", "")) > 50 for row in rows)


def worker(module, *words):
    assert (module, words[0]) == ("benchmarks.decode", "--worker")
    return decode.after_context(words[1], int(words[2]), int(words[3]))


def test_a_state_of_another_process_is_shown(trained_run, tmp_path):
    (tmp_path / "book").write_text("the cat sat on the mat. " * 20)
    shown = decode.across_processes(trained_run, tmp_path / "book")
    assert shown.count("$ tttscale generate RUN") == 4
    assert "state after 481 tokens: book.state" in shown
    assert str(tmp_path) not in shown


def test_a_worker_prints_what_it_found(capsys):
    threads = torch.get_num_threads()
    decode.main(["--worker", "linear", "48", "1"])
    torch.set_num_threads(threads)
    found = json.loads(capsys.readouterr().out)
    assert found["state_bytes"] > 0
    assert 0 < found["start_kib"] <= found["peak_kib"]
