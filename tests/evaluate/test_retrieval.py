"""Questions hold their needles at their depths; answers have the likelihoods of whole forwards."""

import numpy as np
import pytest
import torch

from tests.evaluate.helpers import on_ranks, split
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.data import ByteTokenizer
from tttscale.errors import ConfigError
from tttscale.evaluate import retrieval
from tttscale.evaluate.made_text import MadeSequence, Repeated
from tttscale.evaluate.retrieval import Question, make_question, score_questions
from tttscale.model.decode_state import DecodeState

TOKENIZER = ByteTokenizer()
HAY = Repeated.of(TOKENIZER)


def question(task, length=1024, depth=0.5, seed=0):
    return make_question(task, TOKENIZER, HAY, length, depth, np.random.default_rng(seed))


def text_of(found, length):
    ids = found.sequence.chunk(0, length).ids
    return TOKENIZER.decode(ids.tolist()), [TOKENIZER.decode(a.tolist()) for a in found.answers]


@pytest.mark.parametrize("depth", [0.0, 0.25, 1.0])
def test_a_passkey_stands_at_its_depth_and_nowhere_else(depth):
    found = question("passkey", depth=depth)
    text, answers = text_of(found, 1024)
    key = answers[0].strip()
    assert len(set(answers)) == 10
    assert text.count(key) == 2
    assert not any(other.strip() in text for other in answers[1:])
    assert text.endswith("The pass key is")
    needle = f" The pass key is {key}. Remember: {key} is the pass key. "
    begin, end = text.index("\n") + 1, text.rindex("\nWhat is")
    share = (text.index(needle) - begin) / (end - begin - len(needle))
    assert share == pytest.approx(depth, abs=0.01)


def test_needles_of_all_houses_stand_apart():
    for seed in range(5):
        text, answers = text_of(question("needle", depth=0.75, seed=seed), 1024)
        assert len(set(answers)) == 8
        for answer in answers:
            assert text.count(f"house is{answer}. ") == 1
        colour = text.rsplit("The number of the ", 1)[1].split()[0]
        assert f"The number of the {colour} house is{answers[0]}. " in text
        assert text.endswith(f"The number of the {colour} house is")


def test_too_short_a_length_names_one_that_is_enough():
    with pytest.raises(ConfigError, match=r"too short for needle, which takes about [\d,]+ tokens"):
        question("needle", length=256)
    assert question("passkey", length=256)


def test_seeds_decide():
    one, same, other = (text_of(question("needle", seed=s), 1024) for s in (3, 3, 4))
    assert one == same
    assert one != other


def questions(count, length=32):
    """Over the tiny vocabulary; answers differ in length."""
    rng = np.random.default_rng(5)
    return [
        Question(
            MadeSequence(Repeated(rng.integers(0, 23, 50)), []),
            [rng.integers(0, 23, 1 + (n + q) % 6) for n in range(3)],
        )
        for q in range(count)
    ]


@pytest.mark.parametrize("kind", ["striped", "contiguous"])
@pytest.mark.parametrize(("ranks", "batch"), [(1, 1), (1, 3), (2, 2), (3, 1)])
@pytest.mark.parametrize("learner", ["linear", "mlp"])
def test_answers_have_the_likelihood_of_the_whole_forward(ranks, batch, kind, learner, monkeypatch):
    most = []

    def rows(state, chosen):
        most.append(len(chosen))
        return whole(state, chosen)

    whole = DecodeState.rows
    monkeypatch.setattr(DecodeState, "rows", rows)
    monkeypatch.setattr(retrieval, "_ANSWERS_AT_ONCE", 4)
    asked, config = questions(5), tiny_config(learner)
    tables = []

    def work(passes, summed):
        def kept(table):
            tables.append(summed(table).clone())
            return tables[-1]

        return score_questions(passes, asked, 23, kept)

    results = on_ranks(work, ranks, split(32, kind=kind), config, batch=batch)
    assert all(result == results[0] for result in results)
    model, right = tiny_model(config), 0
    for n, one in enumerate(asked):
        context, expected, exact = one.sequence.chunk(0, 32).ids, [], None
        for answer in one.answers:
            with torch.no_grad():
                ids = torch.from_numpy(np.concatenate([context, answer]))[None]
                likely = model(ids).logits[0, 31:-1].log_softmax(-1)
            expected.append(sum(float(likely[i, t]) for i, t in enumerate(answer)))
            if exact is None:
                exact = likely.argmax(-1).tolist() == answer.tolist()
        assert tables[0][n, :3].tolist() == pytest.approx(expected, rel=1e-10)
        assert bool(tables[0][n, 3]) == exact
        right += expected[0] > max(expected[1:])
    assert results[0]["chosen"]["value"] == right / 5
    assert results[0]["samples"] == 5
    assert max(most) <= 4  # states are not copied for all answers at once


def test_a_tie_is_no_right_choice():
    asked = questions(2)
    for one in asked:
        one.answers[1] = one.answers[0]

    def work(passes, summed):
        return score_questions(passes, asked, 23, summed)

    (found,) = on_ranks(work, 1, split(32))
    assert found["chosen"]["value"] == 0.0
