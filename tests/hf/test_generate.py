"""`generate` of transformers: the official tokens, beams, samples, padding, streams, continuations."""

import threading

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers")

import transformers

from tests.hf.helpers import byte_folder, golden, greedy, left_padded, tiny_pair
from tests.model.test_golden import CASES, GOLDEN
from tttscale.errors import ConfigError
from tttscale.hf import TTTCache, TTTForCausalLM
from tttscale.hf.library import CACHE

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3, 1]]
IDS = torch.tensor([p[:3] for p in PROMPTS])
FREE = {"pad_token_id": 0, "eos_token_id": None}


@pytest.fixture(scope="module", params=["linear", "mlp"])
def pair(request):
    return tiny_pair(request.param)


@pytest.fixture(scope="module")
def byte_pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes")
    byte_folder(folder)
    return TTTForCausalLM.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(
        folder
    )


@pytest.mark.parametrize("case", CASES)
def test_greedy_is_the_official_one(case):
    model, g = golden(case), load_file(GOLDEN / "generate" / f"{case}.safetensors")
    for prompt in (1, 15, 16, 17, 75, 80):
        assert greedy(model, g[f"prompt_{prompt}"][None], 40) == [g[f"tokens_{prompt}"].tolist()]


def test_a_batch_is_that_of_our_own(pair):
    core, model = pair
    wanted = core.generate(IDS, max_new_tokens=12).ids
    assert greedy(model, IDS, 12) == wanted
    assert greedy(model, IDS, 12, use_cache=False) == wanted


def test_each_token_is_read_once(pair, monkeypatch):
    _, model = pair
    read, seen = TTTCache.read, []

    def noted(self, core, ids, real, *, last_only):
        seen.append((ids.shape[1], last_only))
        return read(self, core, ids, real, last_only=last_only)

    monkeypatch.setattr(TTTCache, "read", noted)
    greedy(model, IDS, 4)  # config.json says use_cache = false, as the official one does
    assert not model.config.use_cache
    assert seen == [(3, True), (1, True), (1, True), (1, True)]


@pytest.mark.parametrize("pad", [0, 22])
@pytest.mark.parametrize("use_cache", [True, False])
def test_left_padding(pair, use_cache, pad):
    core, model = pair
    ids, mask = left_padded(PROMPTS, pad)
    found = greedy(model, ids, 12, attention_mask=mask, use_cache=use_cache)
    assert found == core.generate(PROMPTS, max_new_tokens=12).ids


def test_right_padding(pair):
    core, model = pair
    ids, mask = left_padded([p[::-1] for p in PROMPTS])
    ids, mask = ids.flip(1), mask.flip(1)
    for use_cache in (True, False):
        found = greedy(model, ids, 9, attention_mask=mask, use_cache=use_cache)
        assert found == core.generate(PROMPTS, max_new_tokens=9).ids


@pytest.mark.parametrize("sampled", [False, True])
def test_beams_are_those_without_a_cache(pair, sampled):
    _, model = pair
    ids, mask = left_padded(PROMPTS)
    options = {
        **FREE,
        "num_beams": 4,
        "num_return_sequences": 3,
        "max_new_tokens": 12,
        "do_sample": sampled,
        "return_dict_in_generate": True,
        "output_scores": True,
    }
    found = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        found.append(model.generate(ids, attention_mask=mask, use_cache=use_cache, **options))
    with_cache, without = found
    assert with_cache.sequences.shape == (9, 21)
    assert torch.equal(with_cache.sequences, without.sequences)
    assert (with_cache.sequences_scores - without.sequences_scores).abs().max() < 1e-5
    assert getattr(with_cache, CACHE).get_seq_length() == 20


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.8, "top_p": 0.9},
        {"top_k": 5, "num_return_sequences": 4},
        {"min_p": 0.1, "repetition_penalty": 1.2},
    ],
    ids=str,
)
def test_samples_are_those_without_a_cache(pair, options):
    _, model = pair
    ids, mask = left_padded(PROMPTS)
    found = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        found.append(
            model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=10,
                do_sample=True,
                use_cache=use_cache,
                **FREE,
                **options,
            )
        )
    assert torch.equal(*found)
    assert len(found[0]) == 3 * options.get("num_return_sequences", 1)
    assert len({tuple(row) for row in found[0].tolist()}) == len(found[0])


def test_rows_end_at_eos(pair):
    core, model = pair
    free = core.generate(PROMPTS, max_new_tokens=15).ids
    eos = free[0][4]
    ids, mask = left_padded(PROMPTS)
    out = model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=15,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=0,
    )[:, ids.shape[1] :]
    for row, wanted in zip(out.tolist(), free, strict=True):
        end = wanted.index(eos) + 1 if eos in wanted else 15
        assert row[:end] == wanted[:end]
        assert set(row[end:]) <= {0}


def test_a_long_prompt_in_pieces(pair):
    core, model = pair
    ids = torch.randint(0, 23, (2, 30), generator=torch.Generator().manual_seed(1))
    assert greedy(model, ids, 5, prefill_chunk_size=7) == core.generate(ids, max_new_tokens=5).ids


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_narrow_parameters(kind, dtype):
    core, model = tiny_pair(kind, dtype=dtype)
    assert greedy(model, IDS, 10) == core.generate(IDS, max_new_tokens=10).ids
    out = model.generate(IDS, max_new_tokens=8, num_beams=3, do_sample=False, **FREE)
    assert torch.equal(
        out,
        model.generate(
            IDS, max_new_tokens=8, num_beams=3, do_sample=False, use_cache=False, **FREE
        ),
    )


def test_turns_of_a_conversation(pair):
    core, model = pair
    cache, text = TTTCache(), IDS
    for turn in range(3):
        out = model.generate(text, cache=cache, max_new_tokens=5, do_sample=False, **FREE)
        assert out[:, text.shape[1] :].tolist() == core.generate(text, max_new_tokens=5).ids
        assert cache.state.positions == [out.shape[1] - 1] * 3
        text = torch.cat([out, torch.full((3, turn + 1), 7)], dim=1)


@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
def test_the_cache_has_two_names(pair):
    core, model = pair
    wanted = core.generate(torch.cat([IDS, IDS], 1), max_new_tokens=4).ids
    state = core.generate(IDS, max_new_tokens=0).state
    for name in ("cache", "past_key_values"):
        assert greedy(model, IDS, 4, **{name: TTTCache(state)}) == wanted
    with pytest.raises((ConfigError, ValueError), match="two names of one argument"):
        model(IDS, cache=TTTCache(), past_key_values=TTTCache())


def test_a_text_that_has_been_read(pair):
    _, model = pair
    cache = TTTCache()
    model(IDS, cache=cache)
    with pytest.raises(
        ConfigError, match=r"input_ids has 3 columns, and the cache has read 3: .*TTTCache\(cache"
    ):
        model.generate(IDS, cache=cache, max_new_tokens=3, **FREE)


def test_many_questions_to_one_state(pair):
    core, model = pair
    state = core.generate(PROMPTS, max_new_tokens=0).state
    for question in ([4], [6, 2, 2, 8, 1]):
        texts = [prompt + question for prompt in PROMPTS]
        ids = torch.tensor([question] * 3)
        out = model.generate(ids, cache=TTTCache(state), max_new_tokens=6, do_sample=False, **FREE)
        assert out[:, len(question) :].tolist() == core.generate(texts, max_new_tokens=6).ids
    assert state.positions == [5, 3, 9]


@pytest.mark.parametrize(
    "options", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str
)
def test_beams_after_a_cache_leave_it_as_it_was(pair, options):
    _, model = pair
    cache = TTTCache()
    model(IDS[:, :2], cache=cache)
    kept = cache.state.copy()
    options = {"max_new_tokens": 6, "do_sample": False, **FREE, **options}
    out = model.generate(IDS, cache=cache, **options)
    assert torch.equal(out, model.generate(IDS, **options))
    assert cache.state.positions == kept.positions
    assert torch.equal(cache.state.layers[0]["state"][0], kept.layers[0]["state"][0])


def test_streamers(byte_pair):
    model, tokenizer = byte_pair
    inputs = tokenizer("the cat", return_tensors="pt")
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    whole = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
    text = tokenizer.decode(whole, skip_special_tokens=True)
    streamer = transformers.TextIteratorStreamer(
        tokenizer, skip_prompt=True, timeout=60, skip_special_tokens=True
    )
    thread = threading.Thread(
        target=model.generate, kwargs={**inputs, **options, "streamer": streamer}
    )
    thread.start()
    pieces = list(streamer)
    thread.join(60)
    assert "".join(pieces) == text
    assert not thread.is_alive()


def test_text_streamer(byte_pair, capsys):
    model, tokenizer = byte_pair
    inputs = tokenizer("the cat", return_tensors="pt")
    streamer = transformers.TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    out = model.generate(**inputs, **options, streamer=streamer)
    text = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert capsys.readouterr().out.strip() == text.strip()


def test_a_pipeline_with_rows_of_unequal_lengths(byte_pair):
    model, tokenizer = byte_pair
    pipe = transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)
    texts = ["one", "a longer one", "x"]
    options = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    together = pipe(texts, batch_size=3, **options)
    assert together == [pipe([text], **options)[0] for text in texts]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"prompt_lookup_num_tokens": 2}, ValueError, "stateful"),
        ({"cache_implementation": "static"}, ConfigError, "one kind of cache"),
        ({"inputs_embeds": torch.zeros(1, 2, 12)}, ConfigError, "inputs_embeds .* give input_ids"),
        ({"cache": ()}, (ConfigError, ValueError), "tuple"),
        (
            {"attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 1]])},
            ConfigError,
            "row 1 of 3 has no token",
        ),
        ({"position_ids": torch.zeros(3, 3)}, ConfigError, "position_ids .* leave them out"),
        ({"token_type_ids": IDS}, ConfigError, "return_token_type_ids=False"),
        ({"top_kk": 3}, ValueError, "top_kk"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_cannot_be_had_is_refused(pair, options, kind, words):
    _, model = pair
    inputs = {} if "inputs_embeds" in options else {"inputs": IDS}
    with pytest.raises(kind, match=words):
        model.generate(**inputs, max_new_tokens=3, **FREE, **options)


def test_assisted_decoding_is_refused(pair):
    _, model = pair
    with pytest.raises(ValueError, match="stateful"):
        model.generate(IDS[:1], assistant_model=model, max_new_tokens=3, **FREE)


def test_empty_prompts_are_refused(pair):
    _, model = pair
    with pytest.raises(ConfigError, match=r"input_ids: expected .* got \[3, 0\]"):
        model.generate(IDS[:, :0], max_new_tokens=3, **FREE)


def test_other_caches_are_refused(pair):
    _, model = pair
    with pytest.raises(ConfigError, match=r"DynamicCache; .*tttscale\.hf\.TTTCache"):
        model.generate(IDS, cache=transformers.DynamicCache(), max_new_tokens=3, **FREE)
