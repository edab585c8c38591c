"""Load weights that the official PyTorch code saved, and continue a text.

    python examples/load_official_weights.py [FOLDER]

FOLDER holds config.json and model.safetensors (or several files with an index), as `save_pretrained` of the
official `TTTForCausalLM` writes them. Without one, a tiny folder of that form is made first.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tttscale.model import TTTConfig, TTTForCausalLM

SHAPE: dict[str, Any] = dict(vocab_size=256, hidden_size=64, num_attention_heads=2)
SHAPE |= dict(intermediate_size=128, num_hidden_layers=2, ttt_layer_type="linear")


def write_official_folder(folder: Path) -> Path:
    """Random weights under the official names; a real folder comes from the official class."""
    official = dict(
        architectures=["TTTForCausalLM"], model_type="ttt", transformers_version="4.39.2"
    )
    (folder / "config.json").write_text(json.dumps(official | SHAPE))
    weights = TTTForCausalLM(TTTConfig(**SHAPE), seed=0).state_dict()
    weights.pop("lm_head.weight")  # tied to the embedding
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


with tempfile.TemporaryDirectory() as made:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else write_official_folder(Path(made))
    model = TTTForCausalLM.from_pretrained(folder)
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {model.config.ttt_layer_type}")
ids = torch.tensor([list(b"import torch")]) % model.config.vocab_size
with torch.no_grad():
    for _ in range(8):  # the next token that is most likely, eight times
        following = model(ids).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], dim=1)
print(ids[0].tolist())
