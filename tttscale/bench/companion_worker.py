"""A rank that computes beside one that is measured, until the process that started it ends.

Run as `python -m tttscale.bench.companion_worker CONFIG_JSON TOKENS`; prints a line once it computes.
"""

import os
import sys

import torch

from tttscale.bench.calibrate import Machine
from tttscale.bench.companions import READY
from tttscale.bench.cost_fit import Samples
from tttscale.cluster.ranks import discover
from tttscale.config.schema import Config
from tttscale.reading import parse_json
from tttscale.train import build


def main(config: Config, tokens: int) -> None:
    """Run sweeps over and over."""
    parent = os.getppid()
    device = torch.device("cpu")
    ranks = discover({})
    build.prepare_host(config, ranks, device)
    mesh = build.connect(config, ranks, device)
    build.choose_products(mesh, device, None)
    machine = Machine(config, build.build_model(config, device), device)
    machine.sweep([tokens], Samples())
    print(READY, flush=True)
    while os.getppid() == parent:
        machine.sweep([tokens], Samples())


if __name__ == "__main__":
    main(Config.model_validate(parse_json(sys.argv[1].encode())), int(sys.argv[2]))
