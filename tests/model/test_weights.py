"""Every form of a model folder that the official class writes, and what is said of all others."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hostile import BAD_JSON, no_files
from tests.scan.helpers import tiny_config, tiny_model
from tttscale.errors import CheckpointError
from tttscale.model import TTTForCausalLM
from tttscale.model import weights as module
from tttscale.model.pretrained import load_weights
from tttscale.tensors import open_tensors

NORM = "model.norm.weight"
INDEX = "model.safetensors.index.json"
SHARDS = [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]


@pytest.fixture
def model():
    return tiny_model(tiny_config(), torch.float32)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def shard(folder, names=SHARDS, index=INDEX, **metadata):
    """As the official class writes a model above its limit for one file."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts = [sorted(tensors)[n :: len(names)] for n in range(len(names))]
    for name, keys in zip(names, parts, strict=True):
        save_file({key: tensors[key] for key in keys}, folder / name, {"format": "pt"})
    places = {key: name for name, keys in zip(names, parts, strict=True) for key in keys}
    total = {"total_size": sum(t.nbytes for t in tensors.values())}
    write_index(folder, {"metadata": total | metadata, "weight_map": places}, index)
    return places


def write_index(folder, content, index=INDEX):
    (folder / index).write_text(json.dumps(content))


def edit_index(folder, change):
    content = json.loads((folder / INDEX).read_text())
    change(content)
    write_index(folder, content)


def same(model, folder):
    """Loaded in both ways, it is the model that was saved."""
    other = tiny_model(model.config, torch.float32, seed=9)
    load_weights(other, folder)
    for again in (TTTForCausalLM.from_pretrained(folder), other):
        ours, theirs = model.state_dict(), again.state_dict()
        assert list(ours) == list(theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def refused(folder, message):
    """In both ways, and the model that was to be filled is as it was."""
    with pytest.raises(CheckpointError, match=message):
        TTTForCausalLM.from_pretrained(folder)
    other = tiny_model(tiny_config(), torch.float32, seed=9)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        load_weights(other, folder)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("learner", ["linear", "mlp"])
def test_several_files_and_an_index(learner, tied, tmp_path):
    model = tiny_model(tiny_config(learner, tie_word_embeddings=tied), torch.float32)
    model.save_pretrained(tmp_path)
    shard(tmp_path)
    same(model, tmp_path)


def test_each_file_is_opened_once(model, folder, monkeypatch):
    shard(folder)
    opened = []
    monkeypatch.setattr(
        module, "open_tensors", lambda path: opened.append(path.name) or open_tensors(path)
    )
    TTTForCausalLM.from_pretrained(folder)
    assert sorted(opened) == SHARDS


def test_an_index_of_one_file_and_one_without_a_size(model, folder):
    shard(folder, ["model.safetensors"])
    same(model, folder)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    edit_index(folder, lambda c: c.update(metadata={}, weight_map=dict.fromkeys(
        c["weight_map"], "other.safetensors")))  # fmt: skip
    same(model, folder)


def test_a_size_that_counts_the_tied_head(model, folder):
    tensors = load_file(folder / "model.safetensors")
    size = sum(t.nbytes for t in tensors.values()) + tensors["model.embed_tokens.weight"].nbytes
    shard(folder, total_size=size)
    same(model, folder)


def test_one_file_comes_before_an_index_as_in_the_official_class(model, folder):
    shard(folder)
    other = tiny_model(tiny_config(), torch.float32, seed=4)
    other.save_pretrained(folder)
    same(other, folder)


def test_a_cache_of_downloads_is_made_of_links(model, folder, tmp_path):
    shard(folder)
    blobs = tmp_path / "blobs"
    folder.rename(blobs)
    folder.mkdir()
    for path in blobs.iterdir():
        (folder / path.name).symlink_to(path)
    same(model, folder)


@pytest.mark.parametrize("name", ["model.safetensors", INDEX])
def test_a_link_to_nowhere(folder, tmp_path, name):
    """As a cache has it whose blobs were deleted."""
    (folder / "model.safetensors").unlink()
    (folder / name).symlink_to("../blobs/1a2b")
    refused(folder, rf"{name} is a link to \.\./blobs/1a2b, which does not exist\. Fetch")


@pytest.mark.parametrize("sharded", [False, True])
def test_a_variant_where_there_is_nothing_else(model, folder, sharded):
    if sharded:
        names = [name.replace("model", "model.fp16", 1) for name in SHARDS]
        shard(folder, names, "model.safetensors.index.fp16.json")
    else:
        (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    same(model, folder)
    save_file({"a": torch.zeros(1)}, folder / "model.bf16.safetensors")
    refused(folder, r"holds model\.bf16\.safetensors, model\..*fp16.* Call the one that is meant")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_fp32(folder, dtype):
    path = folder / "model.safetensors"
    tensors = {key: value.to(dtype) for key, value in load_file(path).items()}
    save_file(tensors, path)
    loaded = TTTForCausalLM.from_pretrained(folder).state_dict()
    assert all(loaded[key].dtype == torch.float32 for key in tensors)
    assert all(torch.equal(loaded[key], value.float()) for key, value in tensors.items())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float8_e4m3fn])
def test_what_are_no_weights_is_refused(folder, dtype):
    path = folder / "model.safetensors"
    save_file(load_file(path) | {NORM: torch.ones(12).to(dtype)}, path)
    refused(
        folder, r"model\.safetensors: model\.norm\.weight is [IF][A-Z0-9_]+; weights are F64, F32"
    )


def test_the_core_alone_has_no_prefix(folder, model, tmp_path):
    path = folder / "model.safetensors"
    tensors = {key.removeprefix("model."): value for key, value in load_file(path).items()}
    save_file(tensors, path)
    same(model, folder)
    untied = tiny_model(tiny_config(tie_word_embeddings=False), torch.float32)
    untied.save_pretrained(tmp_path / "untied")
    path = tmp_path / "untied" / "model.safetensors"
    tensors = {key.removeprefix("model."): value for key, value in load_file(path).items()}
    save_file({key: t for key, t in tensors.items() if key != "lm_head.weight"}, path)
    with pytest.raises(CheckpointError, match=r"\(1 problems\): missing lm_head\.weight"):
        TTTForCausalLM.from_pretrained(tmp_path / "untied")


def tables(config, dtype=torch.float32):
    half = torch.arange(0, config.head_dim, 2) / config.head_dim
    for layer in range(config.num_hidden_layers):
        block = f"model.layers.{layer}.seq_modeling_block"
        yield f"{block}.rotary_emb.inv_freq", (1 / config.rope_theta**half).to(dtype)
        yield f"{block}.token_idx", (1 / torch.arange(1, config.mini_batch_size + 1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tables_that_were_saved_along(model, folder, dtype):
    path = folder / "model.safetensors"
    save_file(load_file(path) | dict(tables(model.config, dtype)), path)
    same(model, folder)


def test_a_table_shows_what_the_weights_were_trained_with(folder):
    path = folder / "model.safetensors"
    other = tiny_config(rope_theta=500.0)
    (folder / "config.json").unlink()
    save_file(load_file(path) | dict(tables(other)), path)
    model = tiny_model(tiny_config(), torch.float32)
    with pytest.raises(
        CheckpointError, match=r"inv_freq is not that of rope_theta = 10000\.0; set model"
    ):
        load_weights(model, folder)
    load_weights(tiny_model(other, torch.float32), folder)


MISSING = SHARDS[1]


def drop_key(content):
    del content["weight_map"][NORM]


def move_key(content):
    content["weight_map"][NORM] = next(
        name for name in SHARDS if name != content["weight_map"][NORM]
    )


def name_file(name):
    return lambda content: content["weight_map"].update({NORM: name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_key, r"holds model\.norm\.weight, which model\.safetensors\.index\.json does not list there"),
        (move_key, r"index\.json says that model\.norm\.weight is in \S+, but it is in \S+\."),
        (lambda c: c["weight_map"].update(new=SHARDS[0]), r"says that new is in \S+, but no file has it"),
        (lambda c: c["metadata"].update(total_size=5), r"all tensors have 5 bytes, but its files hold"),
        (lambda c: c["metadata"].update(total_size="5"), r"total_size is '5', no number"),
        (lambda c: c["metadata"].update(total_size=True), r"total_size is True, no number"),
        (lambda c: c.pop("weight_map"), r"no weight_map"),
        (lambda c: c.update(weight_map={}), r"no weight_map"),
        (lambda c: c.update(weight_map=[1]), r"no weight_map"),
        (name_file("../model/" + SHARDS[0]), r"model\.norm\.weight is in '\.\./model/.*no name of a file"),
        (name_file("/etc/passwd"), "no name of a file"),
        (name_file("a/b.safetensors"), "no name of a file"),
        (name_file("..safetensors"), "no name of a file"),
        (name_file("model.bin"), "no name of a file"),
        (name_file("x\n.safetensors"), "no name of a file"),
        (name_file("x\0.safetensors"), "no name of a file"),
        (name_file(7), "no name of a file"),
        (name_file(None), "no name of a file"),
        (name_file("lost.safetensors"), r"lost\.safetensors does not exist, but \S+index\.json names it"),
    ],
)  # fmt: skip
def test_an_index_that_disagrees_with_its_files(folder, change, message):
    shard(folder)
    edit_index(folder, change)
    refused(folder, message)


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
def test_an_index_that_is_none(folder, content):
    shard(folder)
    (folder / INDEX).write_bytes(content)
    refused(folder, r"model/model\.safetensors\.index\.json: .*Put back the index")


def test_shards_that_are_missing_damaged_or_no_files(folder, tmp_path):
    shard(folder)
    for path in no_files(tmp_path / "strange").values():
        (folder / MISSING).unlink(missing_ok=True)
        (folder / MISSING).symlink_to(path)
        refused(folder, MISSING)
    (folder / MISSING).unlink()
    refused(folder, rf"{MISSING} does not exist, but {INDEX} names it")
    (folder / MISSING).write_bytes(b"x" * 90)
    refused(folder, rf"{MISSING} is damaged")
    shutil.copy(folder / SHARDS[0], folder / MISSING)
    refused(folder, "They were not written together")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"it holds config\.json\. Give a folder with model\.safetensors, or with"),
        (["pytorch_model.bin"], r"it holds pytorch_model\.bin, which are pickles, .* safe_serialization="),
        (["pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"], "pickles"),
        (["consolidated.00.pth"], "pickles"),
        (SHARDS, r"parts of a model, but no model\.safetensors\.index\.json"),
        (["weights.safetensors"], r"weights\.safetensors, tensors under another name"),
        (["streaming_train_state"], "checkpoints of ttt-lm-jax"),
        (["flax_model.msgpack"], "another library's"),
        (["final/model.safetensors"], r"name \S+/model/final"),
        (["step-9/model.safetensors", "step-12/model.safetensors"], r"name \S+/model/step-"),
        (["checkpoints/step-9/model.safetensors"], r"a run's folder; name a checkpoint in"),
        (["a\x1b[31m"], r"it holds 'a\\x1b\[31m', config\.json"),
    ],
)  # fmt: skip
def test_a_folder_without_weights_is_told_what_it_holds(folder, names, message):
    (folder / "model.safetensors").unlink()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    refused(folder, message)


def test_no_folder(folder, tmp_path):
    model = tiny_model(tiny_config(), torch.float32)
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors: a file, and not a folder\. Give the"
    ):
        load_weights(model, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder"):
        load_weights(model, tmp_path / "nowhere")


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize(("value", "said"), [(float("nan"), "nan"), (float("-inf"), "-inf")])
def test_values_that_are_not_finite(folder, sharded, value, said):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[NORM][3:5] = value
    save_file(tensors, path)
    name = shard(folder)[NORM] if sharded else path.name
    refused(
        folder,
        rf"{name}: model\.norm\.weight holds 2 values of 12 that are not finite "
        rf"\(the first, at \[3\], is {said}\)",
    )


def test_values_too_large_for_fp32(folder):
    path = folder / "model.safetensors"
    save_file(load_file(path) | {NORM: torch.full((12,), 1e200, dtype=torch.float64)}, path)
    refused(folder, r"model\.norm\.weight holds 12 values of 12 that are not finite")


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": 10**9, "num_attention_heads": 10**6},
        {"num_hidden_layers": 10**15},
        {"vocab_size": 10**18},
        {"mini_batch_size": 10**18},
        {"conv_kernel": 10**12},
        {"intermediate_size": 10**12},
    ],
)
def test_a_model_that_no_memory_holds_is_refused_before_it_is_made(folder, fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with pytest.raises(
        CheckpointError, match=r"config\.json describes a model of .* do not belong together"
    ):
        TTTForCausalLM.from_pretrained(folder)


def test_tensors_as_they_are_stored(model, folder):
    tensors = {k: v.bfloat16() for k, v in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "other.safetensors")
    assert module.has_weights(folder)
    with module.open_weights_file(folder / "other.safetensors") as weights:
        assert set(weights) == set(tensors)
        for key, value in tensors.items():
            assert weights.dtype(key) == torch.bfloat16
            assert torch.equal(weights.stored(key), value)
        rows = weights.stored("model.embed_tokens.weight", 3, 7)
        assert torch.equal(rows, tensors["model.embed_tokens.weight"][3:7])
    (folder / "model.safetensors").unlink()
    assert not module.has_weights(folder)


def test_one_file_of_other_things(folder):
    save_file({"a": torch.zeros(2, dtype=torch.int64)}, folder / "other.safetensors")
    with (
        pytest.raises(CheckpointError, match=r"other\.safetensors: a is I64; weights are"),
        module.open_weights_file(folder / "other.safetensors"),
    ):
        pass
