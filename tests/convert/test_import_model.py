"""Imports as a whole: golden weights bit for bit, notices, tokenizers, harm that leaves nothing."""

import os
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file

from tests.convert.streams import (
    CONFIGS,
    GOLDEN,
    MODELS,
    STATE,
    array,
    imported,
    leaf,
    names,
    params,
    read,
    values,
    weights,
    write,
)
from tests.trained import byte_model
from tttscale.convert import jax_names
from tttscale.convert.import_model import Wishes, import_model
from tttscale.convert.settle import Given
from tttscale.data import ByteTokenizer
from tttscale.data.tokenizers.byte_definition import byte_definition
from tttscale.errors import CheckpointError, TTTScaleError
from tttscale.files import open_ordinary
from tttscale.model import TTTConfig, TTTForCausalLM


@pytest.mark.parametrize("name", MODELS)
def test_jax_models(name, tmp_path):
    imported(params(name), tmp_path / "out", name)
    wanted = weights(name)
    found = load_file(tmp_path / "out/model.safetensors")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert TTTForCausalLM.from_pretrained(tmp_path / "out").config == TTTConfig(**CONFIGS[name])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(None, torch.bfloat16), (torch.float32, torch.float32), (torch.float16, torch.float16)],
)
def test_a_train_state_in_any_dtype(dtype, expected, tmp_path):
    imported(STATE, tmp_path / "out", dtype=dtype)
    found = load_file(tmp_path / "out/model.safetensors")
    for key, value in weights("linear_mamba").items():
        assert torch.equal(found[key], value.bfloat16().to(expected)), key
    TTTForCausalLM.from_pretrained(tmp_path / "out")


def test_what_is_noticed(tmp_path):
    said = imported(STATE, tmp_path / "out")
    assert said[0].startswith(f"{STATE}: train state of ttt-lm-jax after step 7")
    assert "rope_theta = 10000 is assumed" in said[1]
    assert "rms_norm_eps = 1e-06 is assumed" in said[2]
    assert "no tokenizer is with it" in said[3]
    card = (tmp_path / "out/README.md").read_text()
    assert "Imported from `linear_mamba.streaming_train_state`: train state" in card
    assert str(GOLDEN) not in card
    assert not (tmp_path / "out/tokenizer.json").exists()


def test_a_tokenizer_beside_the_weights(tmp_path):
    folder = tmp_path / "in"
    TTTForCausalLM(TTTConfig(**{**CONFIGS["linear_base"], "vocab_size": 259})).save_pretrained(
        folder
    )
    (folder / "tokenizer.json").write_bytes(byte_definition(True))
    imported(folder, tmp_path / "out")
    assert (tmp_path / "out/tokenizer.json").read_bytes() == byte_definition(True)
    imported(folder, tmp_path / "bare", tokenizer="none")
    assert not (tmp_path / "bare/tokenizer.json").exists()
    assert f"sha256 `{ByteTokenizer.digest}`" in (tmp_path / "out/README.md").read_text()


def test_a_head_of_its_own(tmp_path):
    head = torch.randn(64, 257)
    records = [
        *read(params("linear_base")),
        [["lm_head", "kernel"], array((64, 257), "float32", values(head))],
    ]
    imported(write(tmp_path / "s", records), tmp_path / "out", "linear_base")
    model = TTTForCausalLM.from_pretrained(tmp_path / "out")
    assert not model.config.tie_word_embeddings
    assert torch.equal(model.lm_head.weight, head.T)


def test_one_array_is_read_at_a_time_and_no_moment(tmp_path, monkeypatch):
    """A file of 26 MB: the values of each array once, none with another, and a few bytes of each record."""
    records = read(params("linear_base"))
    layer = [record for record in records if record[0][1:3] == ["h", "0"]]
    rest = [record for record in records if record[0][1] != "h"]
    layers = [[[*k[:2], str(i), *k[3:]], value] for i in range(100) for k, value in layer]
    moments = [[["opt_state", *key], value] for key, value in layers]
    path = write(tmp_path / "s", [*rest, *layers, *moments])
    asked = []

    class Counting:
        def __init__(self, file):
            self.file, self.seek = file, file.seek

        def read(self, size):
            asked.append(size)
            return self.file.read(size)

        def readinto(self, view):
            asked.append(len(view))
            return self.file.readinto(view)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    monkeypatch.setattr(jax_names, "open_ordinary", lambda path: Counting(open_ordinary(path)))
    imported(path, tmp_path / "out", "linear_base")
    found = load_file(tmp_path / "out/model.safetensors")
    written = sum(tensor.nbytes for tensor in found.values())
    assert path.stat().st_size > 2 * 13e6
    assert max(asked) == max(tensor.nbytes for tensor in found.values())
    assert written < sum(asked) < written + 300 * len(layers) * 2


def harmed(tmp_path, records, name="linear_base"):
    path = write(tmp_path / "s", records)
    with pytest.raises(CheckpointError) as caught:
        imported(path, tmp_path / "out", name)
    assert names(tmp_path) == ["s"]
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("number", range(0, 38, 5))
def test_a_record_that_is_missing(tmp_path, number):
    records = read(params("linear_base"))
    del records[number]
    said = harmed(tmp_path, records)
    assert "missing" in said or "it has no" in said or "layers" in said


def test_a_record_of_another_shape(tmp_path):
    records = read(params("linear_base"))
    at = next(i for i, (key, _) in enumerate(records) if key[-2:] == ["w3", "kernel"])
    records[at][1] = array((64, 95), "float32", bytes(64 * 95 * 4))
    name = "/".join(records[at][0])
    assert f"record {at + 1} ({name}) is [95, 64] as model.layers.0.mlp.up_proj" in harmed(
        tmp_path, records
    )


def test_a_record_that_is_not_finite(tmp_path):
    records = read(params("linear_base"))
    shape, dtype, data = leaf(records[20][1])
    records[20][1] = array(shape, dtype, data[:-4] + b"\0\0\x80\x7f")
    said = harmed(tmp_path, records)
    assert f"record 21 ({'/'.join(records[20][0])}) holds 1 values" in said
    assert "is inf" in said


def test_a_transformer_of_the_same_code(tmp_path):
    records = [r for r in read(params("linear_base")) if "seq_modeling_block" not in r[0]]
    assert "ttt_norm_weight, which every TTT model has" in harmed(tmp_path, records)


def test_harm_anywhere_leaves_a_model_or_nothing(tmp_path):
    """Bit flips where lengths, names and shapes are: all of the weights, or an error and no folder."""
    whole, random_ = params("linear_base").read_bytes(), random.Random(1)
    heads, at = [], 0
    for record in read(params("linear_base")):
        at = whole.index(record[1][:30], at)
        heads.append(max(at - 80, 0))
    for i in range(60):
        bad = bytearray(whole)
        bad[random_.choice(heads) + random_.randrange(110)] ^= 1 << random_.randrange(8)
        path, out = tmp_path / "s", tmp_path / f"out{i}"
        path.write_bytes(bad)
        try:
            imported(path, out, "linear_base")
        except TTTScaleError as error:
            assert str(path) in str(error)  # noqa: PT017
            assert not out.exists()
        else:
            TTTForCausalLM.from_pretrained(out)


@pytest.mark.parametrize("kind", ["official", "jax", "fused"])
def test_a_source_that_is_written_while_it_is_read(tmp_path, kind):
    """As by a download that has its whole size from the beginning."""
    file = tmp_path / {"jax": "streaming_params"}.get(kind, "model.safetensors")
    if kind == "official":
        byte_model().save_pretrained(tmp_path)
    elif kind == "jax":
        shutil.copy(GOLDEN / "jax/linear_mamba.streaming_params", file)
    else:
        shutil.copy(GOLDEN / "kernels/linear_mamba.kernels_layout.safetensors", file)
    wishes = Wishes(Given(ttt_base_lr=1.0))

    def import_it(then):
        import_model(file, tmp_path / "out", wishes, lambda line: None, lambda done, total: then())

    with pytest.raises(CheckpointError, match="was changed while it was read"):
        import_it(lambda: os.utime(file, ns=(1, 1)))
    assert not (tmp_path / "out").exists()
    import_it(lambda: None)
