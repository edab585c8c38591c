"""Models of both kinds with the same weights, folders, and a tokenizer of bytes as tokenizer.json."""

import json

import torch

from tests.model.test_golden import build
from tests.scan.helpers import tiny_config, tiny_model
from tests.trained import byte_model

PAD, BOS, EOS = 258, 256, 257


def wrapped(core):
    """The model of transformers with the weights of one of ours."""
    from tttscale.hf import TTTConfig, TTTForCausalLM

    model = TTTForCausalLM(TTTConfig(**core.config.model_dump()))
    dtype = next(core.parameters()).dtype
    model = model.to(dtype)
    model.load_state_dict(core.state_dict())
    return model.eval()


def tiny_pair(kind="linear", backbone="mamba", dtype=torch.float64, **changes):
    core = tiny_model(tiny_config(kind, backbone, **changes), dtype)
    return core, wrapped(core)


def golden(case):
    return wrapped(build(case))


def greedy(model, ids, tokens, **options):
    """New tokens of `generate`, without an early end."""
    mask = torch.ones_like(ids)  # else transformers takes each pad token of a prompt for padding
    options = {
        "attention_mask": mask,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
        **options,
    }
    out = model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **options)
    return out[:, ids.shape[1] :].tolist()


def left_padded(prompts, pad=0):
    """Ids and attention mask of rows of different lengths."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


def write_tokenizer(folder):
    """Write tokenizer.json of the byte tokenizer, and its configuration."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    from_byte = _byte_characters()
    codec = Tokenizer(models.BPE(vocab={from_byte[b]: b for b in range(256)}, merges=[]))
    codec.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    codec.decoder = decoders.ByteLevel()
    codec.add_special_tokens([AddedToken(n, special=True) for n in ("<bos>", "<eos>", "<pad>")])
    codec.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    folder.mkdir(parents=True, exist_ok=True)
    codec.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def byte_folder(folder, **changes):
    """Write a model of bytes and its tokenizer, as an export does; return the model."""
    ids = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    core = byte_model(**{**ids, **changes})
    core.save_pretrained(folder)
    write_tokenizer(folder)
    return core


def _byte_characters():
    """The printable character that byte-level tokenizers write for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return {b: chr(b if b in shown else next(others)) for b in range(256)}
