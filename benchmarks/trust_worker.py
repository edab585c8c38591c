"""One rank of a measured setting of the trust table, in a process of its own, as launchers start them.

Run as `python -m benchmarks.trust_worker CONFIG_JSON STEPS TENSORS`. Prints one JSON object: resident peak
after the steps and time of each, and if TENSORS is 1 the most that tensors took at once in one more step.
"""

import gc
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from tttscale.cluster.ranks import discover
from tttscale.config.schema import Config
from tttscale.data import ArraySplit, Windows
from tttscale.plan.memory import BUCKET_BYTES
from tttscale.train import build, cpu_products
from tttscale.train.memory import peak_bytes
from tttscale.train.trainer import Trainer


def main(config: Config, steps: int, tensors: bool) -> None:
    """Run the steps and print what they took."""
    ranks, device = discover(os.environ), torch.device("cpu")
    build.prepare_host(config, ranks, device)
    mesh = build.connect(config, ranks, device)
    cpu_products.choose(mesh)
    model = build.build_model(config, device)
    policy = build.keep_policy(config, ranks, device)
    sweeps = build.training_sweeps(config, model, mesh, policy)
    trainer = Trainer(config, mesh, model, sweeps, build.build_engine(config, model, mesh))
    length, per_step = config.data.sequence_length, config.train.sequences_per_step
    text = np.random.default_rng(0).integers(0, 256, length * per_step + 1, dtype=np.uint16)
    windows = Windows(ArraySplit([text]), length, 0, 16)
    rows = []
    for step in range(1, steps + 1):
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        record = trainer.step(step, windows)
        now = resource.getrusage(resource.RUSAGE_SELF)
        spent = now.ru_utime + now.ru_stime - cpu.ru_utime - cpu.ru_stime
        rows.append({"step_seconds": record["step_seconds"], "cpu_seconds": spent})
    result = {"peak_bytes": peak_bytes(device), "steps": rows}
    if tensors:
        result["tensors_bytes"] = tensors_peak(lambda: trainer.step(steps + 1, windows))
    mesh.close()
    print(json.dumps(result))


def tensors_peak(function: Callable[[], Any]) -> int:
    """The most bytes that all tensors take at once while a function runs, without the reduction's buffer.

    A CPU's kernel gives memory to what is written only, and DeepSpeed's buffer is hardly written here.
    """
    gc.collect()
    before = held_bytes()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        function()
    results: Any = prof.profiler and prof.profiler.kineto_results
    found = ((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    changes = sorted(change for change in found if abs(change[1]) != BUCKET_BYTES)
    held = most = before
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def held_bytes() -> int:
    """Bytes of all tensors of the CPU that there are."""
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter) and thing.device.type == "cpu":
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


if __name__ == "__main__":
    main(Config.model_validate_json(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "1")
