"""A store, and the configuration of a run on it."""

import pytest
import yaml

from tttscale.data import BuildOptions, build_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    text = folder / "text"
    text.mkdir()
    for i in range(6):
        (text / f"{i}.txt").write_text(f"document {i}: " + "the quick brown fox. " * 60)
    build_store(folder / "store", [str(text)], BuildOptions(holdout_fraction=0.3))
    config = {
        "run": {"name": "alone", "dir": str(folder / "runs")},
        "model": {
            "vocab_size": 259,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mini_batch_size": 4,
            "share_qk": True,
            "use_gate": True,
            "pre_conv": True,
        },
        "data": {"store": str(folder / "store"), "sequence_length": 256},
        "parallel": {"chunk_length": 64},
        "train": {"steps": 4, "precision": "fp32", "lr": 1e-2, "warmup_steps": 2},
        "evaluate": {"every": 2, "sequences": 2},
        "logging": {"wandb": {"mode": "disabled"}},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(config))
    return folder
