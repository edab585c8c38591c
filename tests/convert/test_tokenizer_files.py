"""A tokenizer as other programs expect it: loads back as the same, with the same special tokens."""

import json

import pytest

from tests.data.tokenizers.test_tokenizer import json_file  # noqa: F401 (a fixture)
from tttscale.convert.tokenizer_files import generation_file, special_names, tokenizer_files
from tttscale.data import ByteTokenizer, load_tokenizer


def saved(tokenizer, folder):
    folder.mkdir(exist_ok=True)
    for name, content in {**tokenizer_files(tokenizer), **generation_file(tokenizer)}.items():
        (folder / name).write_bytes(content)
    return folder


def roles(tokenizer):
    return tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id


@pytest.mark.parametrize(
    "named", [{}, {"bos": "none"}, {"bos": "none", "eos": "none", "pad": "none"}]
)
def test_bytes_stay_the_byte_tokenizer(tmp_path, named):
    codec = ByteTokenizer.without(named)
    found = load_tokenizer(str(saved(codec, tmp_path / "out")))
    assert isinstance(found, ByteTokenizer)
    assert (found.digest, roles(found)) == (codec.digest, roles(codec))
    assert special_names(codec) == {
        role: None if role in named else name
        for role, name in {"bos": "<s>", "eos": "</s>", "pad": "<pad>"}.items()
    }


def test_a_tokenizer_json_stays_as_it_is(tmp_path, json_file):  # noqa: F811
    codec = load_tokenizer(str(json_file), {"pad": "a"})
    found = load_tokenizer(str(saved(codec, tmp_path / "out")))
    assert (tmp_path / "out/tokenizer.json").read_bytes() == json_file.read_bytes()
    assert (found.digest, roles(found)) == (codec.digest, (None, 2, 0))


def test_how_to_generate():
    found = json.loads(
        generation_file(ByteTokenizer.without({"pad": "none"}))["generation_config.json"]
    )
    assert found == {"bos_token_id": 256, "eos_token_id": 257, "use_cache": True}
    assert json.loads(generation_file(None)["generation_config.json"]) == {"use_cache": True}


def test_transformers_gives_the_ids_of_training(tmp_path):
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet
    )
    made.train_from_iterator(["the cat sat on the mat </s> größe"] * 9, trainer)
    made.save(str(tmp_path / "tokenizer.json"))
    codec = load_tokenizer(str(tmp_path / "tokenizer.json"))
    found = transformers.AutoTokenizer.from_pretrained(saved(codec, tmp_path / "out"))
    text = "the cat </s> sat <s> 漢字"
    assert found(text, add_special_tokens=False).input_ids == codec.encode(text).tolist()
    assert (found.bos_token, found.eos_token, found.pad_token) == ("<s>", "</s>", None)


def test_transformers_loads_them(tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = saved(ByteTokenizer(), tmp_path / "out")
    found = transformers.AutoTokenizer.from_pretrained(folder)
    text = "größe </s> <s>\0\n 漢字 🙂 "
    assert found(text).input_ids == [256, *text.encode()]
    assert found(text, add_special_tokens=False).input_ids == list(text.encode())
    assert found.decode([256, *text.encode(), 257, 258], skip_special_tokens=True) == text
    assert (found.bos_token_id, found.eos_token_id, found.pad_token_id) == (256, 257, 258)
    assert len(found) == 259
