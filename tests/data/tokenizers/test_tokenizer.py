import errno
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tttscale.data import ByteTokenizer, load_tokenizer
from tttscale.errors import DataError


@given(st.text())
def test_bytes_round_trip(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.tolist() == list(text.encode())
    assert tokenizer.decode([256, *ids, 257, 258]) == text


@pytest.fixture
def json_file(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {"a": 0, "b": 1, "</s>": 2, "<unk>": 7}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_json_tokenizer_takes_the_whole_text_and_nothing_else(json_file):
    tokenizer = load_tokenizer(str(json_file))
    assert tokenizer.encode("a b a b").tolist() == [0, 1, 0, 1]  # neither truncated nor padded
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (None, 2, 8)
    assert tokenizer.decode([0, 1, 2]) == "a b"
    assert load_tokenizer(str(json_file.parent)).digest == tokenizer.digest


def test_a_special_token_written_in_a_text_is_text(tmp_path):
    from tokenizers import Tokenizer, models

    letters = {letter: i for i, letter in enumerate("</s>")}
    tokenizer = Tokenizer(models.BPE(letters, []))
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.eos_id == 4
    assert loaded.encode("</s>").tolist() == [0, 1, 2, 3]


def test_unknown_and_broken_tokenizers(tmp_path):
    with pytest.raises(DataError, match=r"--tokenizer gpt9: No such file .*Give `bytes`"):
        load_tokenizer("gpt9")
    broken = tmp_path / "tokenizer.json"
    broken.write_text(json.dumps({"model": 1}))
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        load_tokenizer(str(broken))


def test_a_tokenizer_that_may_not_be_read(json_file, monkeypatch):
    def refuse(path, limit_bytes):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("tttscale.data.tokenizers.tokenizer.read_bytes", refuse)
    with pytest.raises(DataError, match=rf"--tokenizer {json_file}: Permission denied\. Give"):
        load_tokenizer(str(json_file))


def test_a_store_does_not_tell_where_its_tokenizer_lay(json_file, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = json_file.rename(elsewhere / json_file.name)
    assert load_tokenizer(str(moved)).name == "tokenizer.json"
    assert load_tokenizer(str(elsewhere)).name == "elsewhere"
    moved.write_text("{}")
    with pytest.raises(DataError, match=r"elsewhere/tokenizer\.json: not a tokenizer"):
        load_tokenizer(str(moved))
