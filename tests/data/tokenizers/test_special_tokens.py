"""What stands between documents: by flag, by the tokenizer's folder, by usual names, and who said so."""

import json
import pickle

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from tests.data.conftest import build
from tttscale.data import load_tokenizer, open_store, render_info
from tttscale.errors import DataError

B, E = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USUAL = "<|endoftext|>"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tok"
    path.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens([B, E, USUAL])  # 256, 257, 258
    made.save(str(path / "tokenizer.json"))
    return path


def ids(spec, **asked):
    loaded = load_tokenizer(str(spec), asked)
    assert pickle.loads(pickle.dumps(loaded)).eos_id == loaded.eos_id
    return loaded.bos_id, loaded.eos_id, loaded.pad_id


def beside(folder, name, **fields):
    (folder / name).write_text(json.dumps(fields))


def test_a_lone_file_goes_by_usual_names(folder):
    assert ids(folder) == (None, 258, None)
    assert load_tokenizer(str(folder)).special["eos"] == f"{USUAL} (258), by its usual name"
    beside(folder, "tokenizer_config.json", eos_token=E)
    other = (folder / "tokenizer.json").rename(folder / "mine.json")
    assert ids(other) == (
        None,
        258,
        None,
    )  # the folder's words are not about a file of another name


def test_the_folder_comes_before_usual_names(folder):
    beside(folder, "tokenizer_config.json", bos_token={"content": B}, eos_token=E, pad_token=None)
    beside(folder, "special_tokens_map.json", eos_token=USUAL, pad_token=USUAL)
    assert ids(folder) == ids(folder / "tokenizer.json") == (256, 257, None)
    special = load_tokenizer(str(folder)).special
    assert special == {
        "bos": f"{B} (256), tokenizer_config.json",
        "eos": f"{E} (257), tokenizer_config.json",
        "pad": "none, tokenizer_config.json",
    }


def test_the_other_files_of_a_folder(folder):
    beside(folder, "generation_config.json", bos_token_id=256, eos_token_id=[257], pad_token_id=258)
    assert ids(folder) == (256, 257, 258)
    beside(folder, "special_tokens_map.json", eos_token={"content": USUAL})
    assert ids(folder) == (256, 258, 258)
    beside(
        folder, "generation_config.json", eos_token_id=[257, 258]
    )  # which of them ends a document?
    (folder / "special_tokens_map.json").unlink()
    assert ids(folder) == (None, 258, None)


def test_a_flag_comes_before_all(folder):
    beside(folder, "tokenizer_config.json", bos_token=B, eos_token=E)
    assert ids(folder, bos="none", eos=USUAL) == (None, 258, None)
    assert load_tokenizer(str(folder), {"bos": "none"}).special["bos"] == "none, --bos"


def test_one_token_for_both_is_written_once(folder):
    """As GPT-2's folder names it; unless both are asked for."""
    beside(folder, "tokenizer_config.json", bos_token=USUAL, eos_token=USUAL)
    assert ids(folder) == (None, 258, None)
    assert "the same as eos" in load_tokenizer(str(folder)).special["bos"]
    assert ids(folder, bos=USUAL) == (258, 258, None)


def test_tokens_that_are_not_there_are_refused(folder):
    with pytest.raises(
        DataError, match=r"--eos '<end>', which tokenizer .*tok does not have.*--eos none"
    ):
        ids(folder, eos="<end>")
    beside(folder, "tokenizer_config.json", bos_token="<start>")
    with pytest.raises(DataError, match=r"tokenizer_config\.json names bos_token '<start>'.*--bos"):
        ids(folder)
    assert ids(folder, bos="none") == (None, 258, None)
    beside(folder, "tokenizer_config.json")
    beside(folder, "generation_config.json", eos_token_id=99_999)
    with pytest.raises(DataError, match=r"generation_config\.json names eos_token_id 99999"):
        ids(folder)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(DataError, match=r"generation_config\.json: not JSON: .*--bos and --eos"):
        ids(folder)


def test_bytes_can_do_without_theirs():
    assert ids("bytes", bos="none") == (None, 257, 258)
    with pytest.raises(DataError, match=r"--eos </s>: --tokenizer bytes has its own eos"):
        ids("bytes", eos="</s>")


def test_the_store_keeps_the_choice_and_who_said_so(folder, tmp_path, caplog):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"text {i}")
    sources, options = sorted(tmp_path.glob("*.txt")), {"holdout_fraction": 0}
    beside(folder, "tokenizer_config.json", bos_token=B, eos_token=E)
    info = build(tmp_path / "a", *sources, tokenizer=str(folder), workers=2, **options)
    store = open_store(tmp_path / "a")
    tokens = store.split("train").read(0, info.splits["train"].tokens)
    assert (tokens == 256).sum() == (tokens == 257).sum() == 3
    assert store.tokenizer().eos_id == info.tokenizer.eos_id == 257
    assert f"eos         {E} (257), tokenizer_config.json" in render_info(store.info)
    assert not caplog.records
    none = {"bos": "none", "eos": "none"}
    info = build(tmp_path / "b", *sources, tokenizer=str(folder), special=none, **options)
    assert info.splits["train"].tokens == info.splits["train"].text_bytes
    assert open_store(tmp_path / "b").tokenizer().eos_id is None
    assert "no bos and no eos, so no token separates documents" in caplog.text
    assert "separator   none" in render_info(info)
