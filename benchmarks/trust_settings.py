"""The steps whose estimated and measured times are compared, and one of them run."""

import time
from typing import NamedTuple

from tttscale.bench.calibrate import RandomTokens
from tttscale.bench.step_worker import small_config
from tttscale.config import Config
from tttscale.model import TTTForCausalLM
from tttscale.scan.keep_policy import ActivationPolicy
from tttscale.scan.layout import Kind, Layout
from tttscale.scan.sweep import Sweeps
from tttscale.scan.transport import Transport

TOKENS = 8192
LENGTHS = [2048, 1024, 512]
"""Chunks at which costs are measured; some settings lie between."""


class Setting(NamedTuple):
    """A step that is measured."""

    learner: str
    ranks: int
    chunk_tokens: int
    layout: Kind = "striped"
    sequences: int = 1
    kept: float = 1

    def cut(self) -> Layout:
        """Chunks of its sequences and who has them."""
        return Layout(self.layout, TOKENS, self.chunk_tokens, self.ranks, self.sequences)


SETTINGS = [
    Setting("linear", 1, 2048),
    Setting("linear", 1, 2048, kept=1.5),
    Setting("linear", 1, 2048, kept=2.5),
    Setting("linear", 1, 2048, kept=4),
    Setting("linear", 1, 512, kept=0),
    Setting("linear", 1, 768),
    Setting("linear", 1, 1024, kept=8),
    Setting("linear", 1, 1024, sequences=2),
    Setting("linear", 2, 1024),
    Setting("linear", 2, 2048, kept=2),
    Setting("linear", 2, 768, kept=1.5),
    Setting("linear", 2, 1024, "contiguous"),
    Setting("linear", 2, 2048, "contiguous", kept=2),
    Setting("linear", 2, 1024, sequences=2),
    Setting("linear", 2, 512, sequences=2, kept=0),
    Setting("mlp", 1, 1024),
    Setting("mlp", 1, 2048, kept=4),
    Setting("mlp", 2, 1024),
    Setting("mlp", 2, 2048, "contiguous", kept=0),
    Setting("mlp", 2, 1024, sequences=2, kept=4),
]


def config_of(learner: str, ranks: int) -> Config:
    """The quickstart's model with one of the two learners."""
    small = small_config(TOKENS, LENGTHS[0], "1", 1, ranks)
    model = {"ttt_layer_type": learner, "ttt_base_lr": 1.0 if learner == "linear" else 0.1}
    return small.model_copy(update={"model": small.model.model_copy(update=model)})


def sweeps_seconds(
    model: TTTForCausalLM, setting: Setting, transport: Transport | None
) -> list[float]:
    """CPU seconds of this rank's sweeps, of every step but the first, in which memory is new."""
    groups = [[RandomTokens(TOKENS, 256)] for _ in range(setting.sequences)]
    sweeps = Sweeps(model, setting.cut(), transport, keep=ActivationPolicy(setting.kept))
    seconds = []
    for _ in range(STEPS):
        began = time.thread_time()
        sweeps.forward(groups)
        sweeps.backward()
        seconds.append(time.thread_time() - began)
    return seconds[1:]


STEPS = 3
