"""A tiny trained run with a store of bytes, made once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.scan.helpers import tiny_config, tiny_model

TEXT = "the cat sat on the mat. the dog ran after the cat. größer als alles. " * 40
RUN = """\
run: {{name: tiny, dir: {root}/runs}}
model:
  vocab_size: 259
  hidden_size: 32
  intermediate_size: 48
  num_hidden_layers: 2
  num_attention_heads: 2
  initializer_range: 0.15
  share_qk: true
  use_gate: true
  pre_conv: true
data: {{store: {root}/store, sequence_length: 256}}
parallel: {{chunk_length: 64}}
train: {{steps: 12, lr: 1e-2, warmup_steps: 2, precision: fp32, device: cpu}}
evaluate: {{sequences: 0}}
checkpoint: {{every: 4, keep: 3}}
logging: {{wandb: {{mode: disabled}}}}
"""


def byte_model(kind="linear", **changes):
    """An untrained model of the byte tokenizer's vocabulary, fp32."""
    return tiny_model(tiny_config(kind, **{"vocab_size": 259, **changes}), torch.float32)


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of twelve steps, with `final` and checkpoints."""
    root = tmp_path_factory.mktemp("trained")
    (root / "text.txt").write_text(TEXT)
    (root / "run.yaml").write_text(RUN.format(root=root))
    command = [sys.executable, "-m", "tttscale"]
    for words in (
        ["data", "build", f"{root}/store", f"{root}/text.txt"],
        ["train", f"{root}/run.yaml"],
    ):
        done = subprocess.run([*command, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return root / "runs" / "tiny"
