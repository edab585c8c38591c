"""A session reads and replies in turn, and whatever interrupts it, the next turn is right."""

from dataclasses import replace

import pytest
import torch

from tests.trained import byte_model
from tttscale.data.tokenizers.tokenizer import ByteTokenizer
from tttscale.errors import ConfigError, DataError
from tttscale.generate.session import Figures, Session
from tttscale.model.decoder import Decoder
from tttscale.model.sampling import Sampling

BYTES = ByteTokenizer()
NO_SPECIAL = ByteTokenizer.without({"bos": "none", "eos": "none"})
GREEDY = Sampling(0.0)


@pytest.fixture(scope="module")
def model():
    return byte_model()


def ids_of(text):
    return [256, *text.encode()]


def greedy(model, ids, tokens):
    return model.generate([ids], max_new_tokens=tokens).ids[0]


def written(session, tokens=10, stops=()):
    return "".join(session.reply(tokens, stops))


def test_turns_are_one_text(model):
    session = Session(model, BYTES, GREEDY)
    session.read("one ")
    first = greedy(model, ids_of("one "), 7)
    assert written(session, 7) == BYTES.decode(first)
    session.read("two")
    assert written(session, 9) == BYTES.decode(greedy(model, [*ids_of("one "), *first, *b"two"], 9))
    assert session.state().positions == [1 + 4 + 7 + 3 + 9]


def test_a_state_holds_all_that_was_written(model):
    session = Session(model, BYTES, GREEDY)
    session.read("one ")
    reply = greedy(model, ids_of("one "), 6)
    assert written(session, 6) == BYTES.decode(reply)
    state = session.state()
    after = Session(model, BYTES, GREEDY, state)
    after.read("x")  # no bos in the middle of a text
    wanted = greedy(model, [*ids_of("one "), *reply, *b"x"], 5)
    assert written(after, 5) == BYTES.decode(wanted)


def test_a_reply_that_is_stopped_in_the_middle_is_read_as_far_as_it_was_shown(model):
    session = Session(model, NO_SPECIAL, GREEDY)
    session.read("one ")
    reply = session.reply(20)
    shown = [next(reply) for _ in range(3)]
    count = len(session._written)
    reply.close()
    session.read("two")
    all_ids = greedy(model, list(b"one "), 20)[:count]
    assert "".join(shown) == NO_SPECIAL.decode(all_ids)
    assert written(session, 8) == NO_SPECIAL.decode(greedy(model, [*b"one ", *all_ids, *b"two"], 8))


def test_an_interrupted_prompt_is_as_if_it_had_not_been_given(model):
    session = Session(model, BYTES, GREEDY)
    session.read("one ")

    def interrupt(done, total):
        if done > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.read("never read", interrupt)
    assert session.position == 5
    session.read("two")
    assert written(session, 6) == BYTES.decode(greedy(model, ids_of("one two"), 6))


def test_a_long_prompt_tells_how_far_it_is(model):
    told = []
    Session(model, BYTES, GREEDY).read("x" * 30, lambda *state: told.append(state))
    assert told[0] == (28, 31)
    assert told[-1] == (31, 31)


def test_eos_ends_a_reply_and_is_not_read(model):
    reply = greedy(model, ids_of("one "), 12)
    codec = ByteTokenizer()
    codec.eos_id = reply[5]
    end = reply.index(codec.eos_id)
    session = Session(model, codec, GREEDY)
    session.read("one ")
    assert written(session, 12) == BYTES.decode(reply[:end])
    assert session.state().positions == [5 + end]
    assert session.figures.tokens == {"read": 5, "generated": end + 1}


def test_tokens_that_the_tokenizer_lacks_are_never_drawn():
    model = byte_model()
    wider = byte_model(tie_word_embeddings=False)
    codec = ByteTokenizer()
    codec.vocab_size = 97
    session = Session(wider, codec, Sampling(5.0))
    session._tokenizer.bos_id = None
    session.read(b"\x01")
    list(session.reply(60))
    assert max(session._written) < 97
    assert model.config.vocab_size == 259


def test_prompts_that_cannot_be_read(model):
    with pytest.raises(
        ConfigError, match="the prompt is empty, and the tokenizer bytes has no bos"
    ):
        Session(model, NO_SPECIAL, GREEDY).read("")
    state = replace(model.generate([[1]], max_new_tokens=0).state, logits=None)
    with pytest.raises(
        ConfigError, match="the state has no logits to continue from: give a PROMPT"
    ):
        Session(model, BYTES, GREEDY, state).read("")
    small = byte_model(vocab_size=100)
    with pytest.raises(DataError, match=r"makes the token 256, .* model is 0 to 99"):
        Session(small, BYTES, GREEDY).read("a")

    class Strict(ByteTokenizer):
        def encode(self, text):
            return super().encode(text.decode() if isinstance(text, bytes) else text)

    with pytest.raises(DataError, match=r"not UTF-8 \(byte 1\)"):
        Session(model, Strict(), GREEDY).read(b"a\xff")


def test_an_empty_prompt_begins_with_bos(model):
    session = Session(model, BYTES, GREEDY)
    session.read("")
    assert written(session, 5) == BYTES.decode(greedy(model, [256], 5))


def test_an_empty_text_continues_a_state(model):
    ids = ids_of("one two")
    state = model.generate([ids], max_new_tokens=0).state
    session = Session(model, BYTES, GREEDY, state)
    session.read("")
    assert written(session, 9) == BYTES.decode(greedy(model, ids, 9))
    assert session.figures.tokens == {"read": 0, "generated": 9}
    assert session.state().positions == [len(ids) + 9]


def test_prompts_are_read_by_the_reader_and_replies_are_not(model):
    asked = []

    def reader(decoder, ids, told):
        asked.append(ids.tolist())
        return Decoder.read(decoder, ids, told)

    session = Session(model, BYTES, GREEDY, reader=reader)
    session.read("one")
    written(session, 4)
    assert asked == [[ids_of("one")]]


def test_figures():
    ticks = iter([2.0, 5.0])
    figures = Figures(clock=lambda: next(ticks))
    now = figures.add("read", 100, 0.0)
    figures.add("generated", 6, now)
    assert figures.render() == (
        "read 100 tokens in 2.00 s (50.0 a second), generated 6 tokens in 3.00 s (2.0 a second)"
    )
    assert torch.is_grad_enabled()
