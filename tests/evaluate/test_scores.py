"""Tokens that are asked for: scored as by a whole forward, on any ranks."""

import numpy as np
import pytest
import torch

from tests.evaluate.helpers import on_ranks, split
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.evaluate.intervals import Interval
from tttscale.evaluate.made_text import MadeSequence, Repeated
from tttscale.evaluate.scores import interval, logits_after, score_asked

ASKED = np.array([5, 8, 9, 30, 40])
CHOICES = torch.tensor([1, 4, 9, 16])


def sequences(count=5):
    rng = np.random.default_rng(7)
    return [MadeSequence(Repeated(rng.integers(0, 21, 60)), [], ASKED) for _ in range(count)]


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
@pytest.mark.parametrize(("ranks", "batch"), [(1, 1), (2, 2), (3, 1)])
def test_asked_tokens_are_scored_as_by_a_whole_forward(ranks, batch, kind):
    made, tables = sequences(), []

    def work(passes, summed):
        def kept(table):
            tables.append(summed(table).clone())
            return tables[-1]

        return score_asked(passes, made, CHOICES, 21, kept)

    results = on_ranks(work, ranks, split(40, kind=kind), batch=batch)
    assert all(result == results[0] for result in results)
    model, places = tiny_model(tiny_config()), ASKED.tolist()
    for n, one in enumerate(made):
        ids = one.hay.read(0, 41)
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[:40])[None]).logits[0, :, :21]
        for i, place in enumerate(places):
            row, token = logits[place - 1], ids[place]
            loss = -float(row.log_softmax(-1)[token])
            assert float(tables[0][0, n, i]) == pytest.approx(loss, rel=1e-10)
            assert bool(tables[0][1, n, i]) == (int(row.argmax()) == token)
            assert bool(tables[0][2, n, i]) == (int(CHOICES[row[CHOICES].argmax()]) == token)
    assert results[0]["answer_tokens"] == 5
    assert results[0]["choices"] == 4


def test_logits_are_those_of_the_model():
    model = tiny_model(tiny_config())
    ids = torch.arange(12)[None]
    with torch.no_grad():
        x = model.embed(ids)
        for block in model.blocks:
            x = block(x)
        assert torch.equal(logits_after(model, x, 20), model(ids).logits[..., :20])


def test_what_is_no_number_is_null():
    assert interval(Interval(0.5, float("nan"), 1.0)) == {"value": 0.5, "low": None, "high": 1.0}
