"""What a tokenizer loses of a text is counted; what cannot lose anything is not slowed down for it."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.data.conftest import build
from tttscale.data import load_tokenizer, open_store, render_info
from tttscale.data.tokenizers.tokenizer import JsonTokenizer
from tttscale.errors import DataError

LETTERS = {letter: i for i, letter in enumerate("abcdefgh ")}
ALPHABET = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
BYTES = {f"<0x{i:02X}>": i for i in range(256)}


def tokenizer(model, **parts):
    made = Tokenizer(model)
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def byte_level(**parts):
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer(
        models.BPE(ALPHABET, []), pre_tokenizer=level, decoder=decoders.ByteLevel(), **parts
    )


def with_bytes():
    """As Llama 2's."""
    signs = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    spaces = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return tokenizer(
        models.BPE(BYTES | {"▁": 256, "a": 257}, [], byte_fallback=True, unk_token="<0x00>"),
        normalizer=normalizers.Sequence(signs),
        decoder=decoders.Sequence([*spaces, decoders.Strip(" ", 1, 0)]),
    )


def codec(made):
    return JsonTokenizer(made.to_str().encode(), "made")


@pytest.mark.parametrize("made", [byte_level(), with_bytes()], ids=["byte level", "byte fallback"])
@settings(deadline=None)
@given(text=st.text().filter(lambda text: "▁" not in text))
def test_what_is_said_to_keep_all_does(made, text):
    ours = codec(made)
    assert ours._fidelity.keeps_all
    (found,) = ours.encode_counted([text.encode()])
    assert found.lost == {}
    assert ours.decode(found.ids.tolist()) == text


@pytest.mark.parametrize(
    "made",
    [
        tokenizer(
            models.BPE(dict(list(ALPHABET.items())[1:]), []),
            pre_tokenizer=pre_tokenizers.ByteLevel(),
        ),
        tokenizer(models.BPE(LETTERS, [])),
        tokenizer(models.BPE(BYTES, [], byte_fallback=False)),
        tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
        byte_level(normalizer=normalizers.StripAccents()),
        byte_level(normalizer=normalizers.Replace("x", "")),
    ],
)
def test_what_may_lose_text_is_looked_at(made):
    assert not codec(made)._fidelity.keeps_all


def test_added_tokens_that_swallow_white_space_are_looked_at():
    made = byte_level()
    made.add_tokens([AddedToken("<mask>", lstrip=True)])
    assert not codec(made)._fidelity.keeps_all


@settings(deadline=None)
@given(text=st.text(alphabet="abh xyz\n日ÄÖ🙂"))
def test_lost_characters_are_counted(text):
    """A BPE of letters, no unknown token: what it does not know is simply gone."""
    made = tokenizer(models.BPE(LETTERS, []), pre_tokenizer=pre_tokenizers.WhitespaceSplit())
    (found,) = codec(made).encode_counted([text.encode()])
    expected = {
        "uncovered_characters": sum(c not in LETTERS and not c.isspace() for c in text),
        "uncovered_spaces": sum(c.isspace() for c in text),
    }
    assert found.lost == {what: count for what, count in expected.items() if count}
    assert found.ids.tolist() == codec(made).encode(text).tolist()


@settings(deadline=None)
@given(words=st.lists(st.sampled_from(["a", "b", "what", "ü"]), min_size=1))
def test_unknown_characters_are_counted(words):
    vocab = {"a": 0, "b": 1, "<unk>": 2}
    model = models.WordLevel(vocab, unk_token="<unk>")
    made = tokenizer(model, pre_tokenizer=pre_tokenizers.WhitespaceSplit())
    (found,) = codec(made).encode_counted([" ".join(words).encode()])
    expected = sum(len(word) for word in words if word not in vocab)
    assert found.lost.get("unknown_characters", 0) == expected


def test_bytes_without_a_letter_are_counted_by_their_characters():
    """A byte-level BPE whose alphabet is that of its training text only."""
    known = {letter: i for letter, i in ALPHABET.items() if letter not in "ÃĹ"}  # 0xC3, 0x97
    made = tokenizer(
        models.BPE(known, []), pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False)
    )
    (found,) = codec(made).encode_counted(["aüb ×".encode()])
    assert found.lost == {"uncovered_characters": 2}  # of one of them a byte is left
    assert len(found.ids) == 4


def test_unigram_names_its_unknown_token_by_number():
    model = models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -2.0)], 0, False)
    (found,) = codec(tokenizer(model)).encode_counted(["abüb".encode()])
    assert found.lost == {"unknown_characters": 1}


def test_offsets_that_a_post_processor_trims_are_not_counted_as_lost():
    made = tokenizer(
        models.BPE(dict(list(ALPHABET.items())[1:]), []),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        post_processor=processors.ByteLevel(trim_offsets=True),
    )
    assert codec(made).encode_counted([b"a b  c"])[0].lost == {}


def test_texts_that_a_normalizer_changes_are_counted():
    made = byte_level(normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]))
    found = codec(made).encode_counted([b"abc", b"aBc", "e\u0301".encode(), b"\xff"])
    assert [one.lost for one in found] == [{}, {"normalized": 1}, {"normalized": 1}, {}]
    assert found[3].ids is None


def test_dropout_is_not_applied(tmp_path, caplog):
    """It would give other ids at every try."""
    made = Tokenizer(models.BPE(dropout=0.5))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(["some words, more words"] * 9, trainer)
    made.enable_truncation(4)
    made.enable_padding(length=64)
    made.save(str(tmp_path / "tokenizer.json"))
    assert json.loads((tmp_path / "tokenizer.json").read_text())["model"]["dropout"] == 0.5
    loaded = load_tokenizer(str(tmp_path))
    tries = [loaded.encode_batch([b"some words, more words"])[0] for _ in range(8)]
    assert all(np.array_equal(one, tries[0]) for one in tries)
    assert loaded.ignored == ["truncation", "padding", "dropout"]
    (tmp_path / "a.txt").write_text("some words, more words")
    info = build(tmp_path / "out", tmp_path / "a.txt", tokenizer=str(tmp_path))
    assert "truncation and padding and dropout would change texts and is not applied" in caplog.text
    assert "ignored     the tokenizer's dropout" in render_info(info)


def test_a_build_says_what_is_lost_and_keeps_it_in_the_store(tmp_path, caplog):
    made = tokenizer(models.BPE(LETTERS, []), pre_tokenizer=pre_tokenizers.Whitespace())
    made.save(str(tmp_path / "tokenizer.json"))
    texts = tmp_path / "texts"
    texts.mkdir()
    for name, text in (("a", "abba"), ("b", "日本語"), ("c", "abba ÄÖÜ")):
        (texts / f"{name}.txt").write_text(text)
    options = {"tokenizer": str(tmp_path), "holdout_fraction": 0}
    info = build(tmp_path / "out", texts, **options)
    counts = {"tokenless": 1, "uncovered_characters": 6, "uncovered_spaces": 1}
    assert open_store(tmp_path / "out").info.build.counts == info.build.counts == counts
    assert info.splits["train"].documents == 2
    assert info.build.documents_read == 3
    assert "6 characters of text are lost: the tokenizer has no token" in caplog.text
    assert f"the first is {texts}/b.txt." in caplog.text
    assert "noticed     1 documents hold text of which the tokenizer makes no token" in render_info(
        info
    )
    again = build(tmp_path / "again", texts, workers=2, **options)
    assert again == info


def test_a_tokenizer_that_gives_up_is_one_error(tmp_path):
    made = tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]"))  # which it does not have
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("b")
    with pytest.raises(DataError, match=r"--tokenizer .*: cannot encode a text: .*byte-level BPE"):
        build(tmp_path / "out", tmp_path / "a.txt", tokenizer=str(tmp_path))
    assert not list(tmp_path.glob("out*"))
