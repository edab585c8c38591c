"""Folders: the Auto classes load what tttscale has written, and tttscale what transformers has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers")

import transformers

from tests.hf.helpers import byte_folder, greedy, wrapped
from tests.mixers.gated_delta import GatedDelta
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import CheckpointError
from tttscale.hf import TTTConfig, TTTForCausalLM
from tttscale.model import TTTForCausalLM as Core
from tttscale.model import mixer
from tttscale.model.auto_map import AUTO_MAP, CODE, CODE_NAME

ROOT = Path(__file__).parents[2]
IDS = torch.randint(0, 23, (2, 13), generator=torch.Generator().manual_seed(8))
LOAD = """
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
load = AutoModelForCausalLM.from_pretrained
model, info = load(folder, trust_remote_code=True, output_loading_info=True)
assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
tokenizer = AutoTokenizer.from_pretrained(folder)
print(type(config).__module__, type(model).__module__)
inputs = tokenizer("the cat", return_tensors="pt")
out = model.generate(**inputs, max_new_tokens=9, do_sample=False, eos_token_id=None)
print(out[0].tolist())
model.save_pretrained(folder + "-again")
"""


def folder_of(core, path):
    core.save_pretrained(path)
    return path


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("backbone", ["mamba", "transformer"])
@pytest.mark.parametrize("tied", [True, False])
def test_the_auto_classes_load_our_folders_and_we_theirs(kind, backbone, tied, tmp_path):
    core = tiny_model(tiny_config(kind, backbone, tie_word_embeddings=tied), torch.float32)
    ours = folder_of(core, tmp_path / "ours")
    config = transformers.AutoConfig.from_pretrained(ours)
    assert config.architecture() == core.config
    model, info = transformers.AutoModelForCausalLM.from_pretrained(ours, output_loading_info=True)
    assert type(model) is TTTForCausalLM
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    assert torch.equal(model(IDS).logits, core(IDS).logits)
    model.save_pretrained(tmp_path / "theirs")
    again = Core.from_pretrained(tmp_path / "theirs")
    assert again.config == core.config
    before, after = (load_file(tmp_path / p / "model.safetensors") for p in ("ours", "theirs"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("tied", [True, False])
def test_shards(tied, tmp_path):
    core = tiny_model(tiny_config("mlp", tie_word_embeddings=tied), torch.float32)
    wrapped(core).save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    assert torch.equal(TTTForCausalLM.from_pretrained(tmp_path)(IDS).logits, core(IDS).logits)
    assert torch.equal(Core.from_pretrained(tmp_path)(IDS).logits, core(IDS).logits)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_model_made_from_its_configuration(kind, tmp_path):
    torch.manual_seed(2)
    config = TTTConfig(**tiny_config(kind).model_dump())
    model = transformers.AutoModelForCausalLM.from_config(config)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(IDS).logits, model(IDS).logits)
    assert (
        greedy(again, IDS, 5) == Core.from_pretrained(tmp_path).generate(IDS, max_new_tokens=5).ids
    )
    assert again.generation_config.use_cache


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_dtypes(dtype, tmp_path):
    core = tiny_model(tiny_config(), torch.float32)
    folder = folder_of(core, tmp_path / "a")
    model = TTTForCausalLM.from_pretrained(folder, dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert torch.equal(model(IDS).logits, core.to(dtype)(IDS).logits)
    model.save_pretrained(tmp_path / "b")
    assert {t.dtype for t in load_file(tmp_path / "b/model.safetensors").values()} == {dtype}
    assert torch.equal(
        Core.from_pretrained(tmp_path / "b").to(dtype)(IDS).logits, model(IDS).logits
    )
    again = TTTForCausalLM.from_pretrained(tmp_path / "b", dtype="auto")
    assert {p.dtype for p in again.parameters()} == {dtype}


def test_the_tokenizer_comes_along(tmp_path):
    core = byte_folder(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "größer als alles"
    assert tokenizer(text)["input_ids"] == [256, *text.encode()]
    assert tokenizer.decode(list(text.encode())) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        256,
        257,
        258,
    )
    inputs = tokenizer(["one", "a longer one"], return_tensors="pt", padding=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    rows = [[256, *b"one"], [256, *b"a longer one"]]
    out = model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert (
        out[:, inputs["input_ids"].shape[1] :].tolist() == core.generate(rows, max_new_tokens=5).ids
    )


def test_a_program_that_does_not_import_us(tmp_path):
    core = byte_folder(tmp_path / "model")
    path = tmp_path / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": AUTO_MAP}))
    (tmp_path / "model" / CODE_NAME).write_text(CODE)
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path / "model")],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    modules, ids = done.stdout.strip().splitlines()
    assert modules == "tttscale.hf.configuration tttscale.hf.modeling"
    prompt = [256, *b"the cat"]
    assert json.loads(ids) == prompt + core.generate([prompt], max_new_tokens=9).ids[0]
    again = tmp_path / "model-again"
    assert sorted(p.name for p in again.glob("*.py")) == [CODE_NAME]
    assert (again / CODE_NAME).read_text() == CODE
    assert json.loads((again / "config.json").read_text())["auto_map"] == AUTO_MAP


class Tabled(GatedDelta):
    """A layer with tensors that are in no file, one as a buffer and one without a word."""

    def __init__(self, config, options):
        super().__init__(config, options)
        self.plain = torch.linspace(0.5, 1, config.hidden_size)
        self.register_buffer("table", torch.linspace(1, 2, config.hidden_size), persistent=False)

    def forward(self, h, chunk, ports):
        return super().forward(h * self.table * self.plain, chunk, ports)


def test_a_layer_of_ones_own_keeps_its_tables(tmp_path):
    mixer("hf-tabled")(Tabled)
    config = tiny_config("linear", pattern=["hf-tabled", "ttt-linear"])
    core = tiny_model(config, torch.float32)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder_of(core, tmp_path))
    assert torch.equal(model(IDS).logits, core(IDS).logits)


def test_missing_weights_are_not_made_up(tmp_path):
    folder_of(tiny_model(tiny_config(), torch.float32), tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.0.seq_modeling_block.W1"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"missing keys: model\.layers\.0\.seq_modeling_block\.W1\)"
    ):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_other_shapes_are_refused(tmp_path):
    folder_of(tiny_model(tiny_config(), torch.float32), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 40}))
    with pytest.raises(RuntimeError):
        TTTForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="mismatched keys"):
        TTTForCausalLM.from_pretrained(tmp_path, ignore_mismatched_sizes=True)


def test_no_pickle_is_loaded(tmp_path):
    core = tiny_model(tiny_config(), torch.float32)
    folder_of(core, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(core.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"model\.safetensors"):
        TTTForCausalLM.from_pretrained(tmp_path)


def test_tables_of_older_files_are_left_out(tmp_path):
    core = tiny_model(tiny_config(), torch.float32)
    folder_of(core, tmp_path)
    path = tmp_path / "model.safetensors"
    tables = {"model.layers.0.seq_modeling_block.token_idx": 1 / torch.arange(1.0, 5)}
    save_file(load_file(path) | tables, path, {"format": "pt"})
    model, info = TTTForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert torch.equal(model(IDS).logits, core(IDS).logits)
