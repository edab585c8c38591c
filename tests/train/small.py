"""A small run: configuration and windows over random documents, without a store."""

import numpy as np
import torch

from tttscale.comm import mesh as meshes
from tttscale.config.schema import Config
from tttscale.data import ArraySplit, Windows
from tttscale.train import build
from tttscale.train.trainer import Trainer

SEQUENCE_TOKENS = 44


def small_config(sequence=1, layout="striped", sequences_per_step=4, stage=1, **train):
    return Config.model_validate(
        {
            "run": {"name": "small"},
            "model": {
                "vocab_size": 23,
                "hidden_size": 12,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "mini_batch_size": 4,
                "share_qk": True,
                "use_gate": True,
                "pre_conv": True,
                "initializer_range": 0.3,
            },
            "data": {"store": "none", "sequence_length": SEQUENCE_TOKENS},
            "parallel": {"sequence": sequence, "chunk_length": 8, "layout": layout},
            "zero": {"stage": stage},
            "train": {
                "steps": 5,
                "sequences_per_step": sequences_per_step,
                "precision": "fp32",
                "lr": 1e-2,
                "warmup_steps": 2,
                **train,
            },
        }
    )


def small_trainer(ranks, config, resumed=None):
    """A trainer on the CPU, its model and its sweeps; with `resumed`, one that resumes from a checkpoint."""
    mesh = meshes.start(ranks, config.parallel.sequence, torch.device("cpu"))
    weights = None if resumed is None else resumed.folder
    model = build.build_model(config, torch.device("cpu"), weights)
    share = config.train.sequences_per_step // mesh.replicas
    sweeps = build.build_sweeps(config, model, mesh, sequences=share, batch=1)
    engine = build.build_engine(config, model, mesh)
    trainer = Trainer(config, mesh, model, sweeps, engine)
    if resumed is not None:
        resumed.restore(engine)
        trainer.tokens = resumed.manifest.tokens
    return trainer, model, sweeps


def small_windows(config):
    generator = np.random.default_rng(7)
    documents = [generator.integers(0, 23, 200) for _ in range(12)]
    return Windows(
        ArraySplit(documents), config.data.sequence_length, 0, config.model.mini_batch_size
    )
