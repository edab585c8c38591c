"""The real carries of a run, without memory for its weights."""

import torch

from tests.train.small import small_config
from tttscale.comm.messages import HEADER_BYTES
from tttscale.config import load_config
from tttscale.plan.carries import Carries
from tttscale.scan.carry import CarryLayout
from tttscale.scan.schedule import CarryKey, Phase


def test_they_are_those_of_the_model_itself():
    from tests.scan.helpers import tiny_model

    config = small_config()
    found = Carries(config)
    model = tiny_model(config.architecture(), torch.float32)
    real = CarryLayout(model.carry_layers, 1, config.parallel.chunk_length, torch.float32)
    assert found.parts == real.parts == (("pre_conv", "qk_conv", "state"),) * 2
    for boundary in (0, 3):
        assert found.layout.at(1, boundary) == real.at(1, boundary)


def test_a_message_has_a_header():
    key = CarryKey(Phase.BACKWARD, 0, 0, 1, "pre_conv")
    assert Carries(small_config()).bytes(key) == HEADER_BYTES + 3 * 12 * 4


def test_a_model_of_a_billion_weights_takes_none():
    found = Carries(load_config("configs/ttt-mlp-1.3b-128Ki.yaml"))
    assert len(found.parts) == 24
    state = CarryKey(Phase.FORWARD, 0, 0, 23, "state")
    assert found.bytes(state) == HEADER_BYTES + 4 * 1_058_816
