"""`TTTForCausalLM.generate`: the whole forward's tokens, rows of their own, states to continue from."""

from dataclasses import replace

import pytest
import torch

from tests.mixers.gated_delta import GatedDelta
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import ConfigError, MixerError
from tttscale.model import mixer

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]]


@pytest.fixture(scope="module", params=["linear", "mlp"])
def model(request):
    return tiny_model(tiny_config(request.param))


def by_forward(model, prompt, tokens):
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_rows_of_unequal_lengths_are_those_of_the_whole_forward(model):
    out = model.generate(PROMPTS, max_new_tokens=12)
    assert out.ids == [by_forward(model, prompt, 12) for prompt in PROMPTS]
    assert out.state.positions == [len(prompt) + 12 for prompt in PROMPTS]


def test_a_tensor_of_equal_rows(model):
    ids = torch.tensor([prompt[:3] for prompt in PROMPTS])
    assert model.generate(ids, max_new_tokens=9).ids == [
        by_forward(model, p[:3], 9) for p in PROMPTS
    ]


def test_a_state_continues_and_stays_as_it_was(model):
    whole = model.generate(PROMPTS, max_new_tokens=10).ids
    first = model.generate(PROMPTS, max_new_tokens=0)
    assert first.ids == [[], [], []]
    longer = [[*prompt, *ids[:1]] for prompt, ids in zip(PROMPTS, whole, strict=True)]
    for _ in range(2):  # the same state twice
        after = model.generate([of[-1:] for of in longer], max_new_tokens=9, state=first.state)
        assert [[a[-1], *b] for a, b in zip(longer, after.ids, strict=True)] == whole
    one = model.generate([longer[1][-1:]], max_new_tokens=9, state=first.state.rows([1]))
    assert one.ids == after.ids[1:2]


def test_a_state_continues_without_prompts(model):
    whole = model.generate(PROMPTS, max_new_tokens=10).ids
    first = model.generate(PROMPTS, max_new_tokens=4)
    more = model.generate(None, max_new_tokens=6, state=first.state)
    assert [[*a, *b] for a, b in zip(first.ids, more.ids, strict=True)] == whole
    two = model.generate(None, max_new_tokens=6, state=first.state.rows([2, 0]))
    assert two.ids == [more.ids[2], more.ids[0]]
    read_all = replace(first.state, logits=None)
    for state in (None, read_all):
        with pytest.raises(ConfigError, match=r"input_ids is None, and .* to continue from"):
            model.generate(None, max_new_tokens=1, state=state)


def test_a_row_ends_at_its_stop_and_others_continue(model):
    free = model.generate(PROMPTS, max_new_tokens=15)
    stop = free.ids[0][4]
    out = model.generate(PROMPTS, max_new_tokens=15, stop_ids=[stop])
    for ids, full, prompt, state in zip(out.ids, free.ids, PROMPTS, out.states, strict=True):
        end = full.index(stop) + 1 if stop in full else 15
        assert ids == full[:end]
        assert state.positions == [len(prompt) + end]
    assert len(out.ids[0]) <= 5
    more = model.generate([[1]] * 3, max_new_tokens=3, state=out.state)
    wanted = [by_forward(model, [*p, *i, 1], 3) for p, i in zip(PROMPTS, out.ids, strict=True)]
    assert more.ids == wanted


def test_drawn_rows_do_not_depend_on_each_other(model):
    options = {"max_new_tokens": 12, "temperature": 1.5, "top_k": 9, "seed": 4}
    all_rows = model.generate(PROMPTS, **options).ids
    assert all_rows[0] == model.generate(PROMPTS[:1], **options).ids[0]
    stopped = model.generate(PROMPTS, stop_ids=[all_rows[0][2]], **options).ids
    for ids, full in zip(stopped, all_rows, strict=True):
        assert ids == full[: len(ids)]
    assert all_rows != model.generate(PROMPTS, **{**options, "seed": 5}).ids


def test_no_gradient_is_kept_and_the_model_stays(model):
    before = [p.detach().clone() for p in model.parameters()]
    out = model.generate(PROMPTS, max_new_tokens=3)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not any(
        t.requires_grad for layer in out.state.layers for part in layer.values() for t in part
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"input_ids": []}, "one row of token ids or more"),
        ({"input_ids": [[1], []]}, "each with a token or more"),
        ({"input_ids": [[1], [2, 23]]}, "row 1 has the token 23, .* 0 to 22"),
        ({"input_ids": [[1, -1]]}, "row 0 has the token -1"),
        ({"max_new_tokens": -1}, "max_new_tokens = -1"),
        ({"top_k": 0}, "top_k"),
    ],
    ids=str,
)
def test_mistakes_are_named(model, arguments, words):
    with pytest.raises(ConfigError, match=words):
        model.generate(**{"input_ids": [[1]], "max_new_tokens": 1, **arguments})


def test_a_state_of_other_rows(model):
    state = model.generate(PROMPTS, max_new_tokens=0).state
    with pytest.raises(ConfigError, match="state has 3 rows, and input_ids 1"):
        model.generate([[1]], max_new_tokens=1, state=state)


def test_a_layer_of_ones_own():
    mixer("generated-delta")(GatedDelta)
    model = tiny_model(tiny_config("linear", pattern=["generated-delta", "ttt-linear"]))
    ids = torch.tensor([prompt[:3] for prompt in PROMPTS])
    assert model.generate(ids, max_new_tokens=9).ids == [
        by_forward(model, p[:3], 9) for p in PROMPTS
    ]
    with pytest.raises(MixerError, match="Give all prompts one length"):
        model.generate(PROMPTS, max_new_tokens=2)
