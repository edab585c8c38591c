"""The benchmark of decoding: what it times is right, and its rows say it."""

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
    rows = decode.after_contexts(1)
    assert [row["context"] for row in rows] == ["32", "64"] * 2
    sizes = {row["learner"]: row["state, bytes"] for row in rows}
    assert all(row["state, bytes"] == sizes[row["learner"]] for row in rows)
