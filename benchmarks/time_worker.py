"""One of several ranks whose sweeps are timed, in a process of its own, as launchers start them.

Run by `benchmarks.trust_time` as `python -m benchmarks.time_worker`, with a launcher's variables. Each line
of standard input is a setting in JSON; prints the CPU seconds of its sweeps as a line of JSON.
"""

import json
import os
import sys

import torch

from benchmarks.trust_settings import Setting, config_of, sweeps_seconds
from tttscale.cluster import join
from tttscale.train import build


def main() -> None:
    """Run what is asked until standard input ends."""
    ranks, device = join(os.environ), torch.device("cpu")
    config = config_of("linear", ranks.world_size)
    build.prepare_host(config, ranks, device)
    mesh = build.connect(config, ranks, device)
    build.choose_products(mesh, device, None)
    models = {}
    for line in sys.stdin:
        setting = Setting(**json.loads(line))
        if setting.learner not in models:
            config = config_of(setting.learner, ranks.world_size)
            models[setting.learner] = build.build_model(config, device)
        transport = mesh.transport
        print(json.dumps(sweeps_seconds(models[setting.learner], setting, transport)), flush=True)
    mesh.close()


if __name__ == "__main__":
    main()
