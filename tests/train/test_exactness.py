"""Splitting over ranks must not change results: gloo processes against one process.

Losses and carries bitwise, gradients within 1e-10 (fp64), parameters after five steps of AdamW under
ZeRO within 1e-6 (fp32).
"""

import hashlib
import os
import shutil

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_ranks, values
from tests.train.small import small_config, small_trainer, small_windows
from tttscale.comm import mesh as meshes
from tttscale.scan.ports import ChunkPort
from tttscale.train import build

LAYOUTS = ("striped", "contiguous")
CASES = {1: [1], 2: [2, 1], 3: [3], 4: [4, 2], 6: [3], 8: [4]}  # world -> sequence ranks


class Recorded:
    """Digests of all carries that chunks take in, by (global sequence, boundary, layer, part)."""

    def __init__(self, first_sequence):
        self.digests, self._first, self._plain = {}, first_sequence, ChunkPort.recv_state

    def __enter__(self):
        recorded, plain = self, self._plain

        def receive(port):
            part = plain(port)
            if part is not None and not port.ports.chunk.replay:
                raw = b"".join(t.detach().contiguous().numpy().tobytes() for t in part)
                task, layer = port.ports.chunk.task, port.ports.layer
                key = (recorded._first + task.sequence, task.chunk - 1, layer, port.part)
                recorded.digests[key] = hashlib.sha256(raw).hexdigest()
            return part

        ChunkPort.recv_state = receive
        return self

    def __exit__(self, *exc):
        ChunkPort.recv_state = self._plain


def first_step(config, ranks):
    """fp64: per-sequence losses, carries, and the gradient summed over all ranks."""
    mesh = meshes.start(ranks, config.parallel.sequence, torch.device("cpu"))
    model = build.build_model(config, torch.device("cpu")).double()
    share = config.train.sequences_per_step // mesh.replicas
    sweeps = build.build_sweeps(config, model, mesh, sequences=share, batch=1)
    if config.train.compile is True:
        build.warm_up(sweeps)
    windows = small_windows(config)
    first = mesh.replica * share
    with Recorded(first) as recorded:
        sweeps.forward([[windows.sequence(first + i)] for i in range(share)])
    losses = sweeps.backward()
    per_sequence = torch.zeros(config.train.sequences_per_step, dtype=torch.float64)
    chunks = mesh.sum_on_cpu(_placed(losses.sums, mesh))
    for row in range(mesh.replicas):
        losses.sums.copy_(chunks[row])
        per_sequence[row * share : (row + 1) * share] = losses.sequence_sums[:, 0]
    grads = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        grads[name] = mesh.sum_on_cpu(grad.clone()).numpy()
    digests = [None] * ranks.world_size
    if ranks.world_size > 1:
        dist.all_gather_object(digests, recorded.digests)
    else:
        digests = [recorded.digests]
    return per_sequence.numpy(), {k: v for d in digests for k, v in d.items()}, grads


def _placed(sums, mesh):
    rows = torch.zeros(mesh.replicas, *sums.shape, dtype=torch.float64)
    rows[mesh.replica] = sums
    return rows


def five_steps(config, ranks):
    """fp32 parameters after five steps, and the first step's record."""
    trainer, model, _ = small_trainer(ranks, config)
    windows = small_windows(config)
    records = [trainer.step(step, windows) for step in range(1, 6)]
    parameters = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
    return parameters, [r["loss"] for r in records], [r["grad_norm"] for r in records]


def everything(ranks, sequence_sizes):
    results = {}
    for size in sequence_sizes:
        for layout in LAYOUTS:
            config = small_config(size, layout)
            results[size, layout] = first_step(config, ranks), five_steps(config, ranks)
    return results if ranks.rank == 0 else None


@pytest.fixture(scope="module")
def alone():
    return values(run_ranks(everything, 1, [1]))[0]


def close(ours, theirs, tolerance):
    for name in theirs:
        a, b = torch.from_numpy(ours[name]), torch.from_numpy(theirs[name])
        assert (a - b).norm() <= tolerance * b.norm().clamp(min=1e-30), name


def close_parameters(ours, theirs, each=1e-5, whole=1e-6):
    """Within `whole` of the whole vector, and no single parameter tensor far off.

    Tensors that start at zero (norm biases, learning-rate biases) are a few Adam steps long, and Adam
    turns the rounding of their smallest gradients into relative errors of a few 1e-6.
    """
    a, b = (torch.cat([torch.from_numpy(p[n]).flatten() for n in theirs]) for p in (ours, theirs))
    assert (a - b).norm() <= whole * b.norm()
    close(ours, theirs, each)


@pytest.mark.parametrize("world", [2, 3, 4, 6, 8])
def test_ranks_do_not_change_results(alone, world):
    results = values(run_ranks(everything, world, CASES[world]))[0]
    for (_, layout), (first, later) in results.items():
        (losses, digests, grads), (parameters, step_losses, norms) = first, later
        (losses1, digests1, grads1), (parameters1, step_losses1, norms1) = alone[1, layout]
        assert (losses == losses1).all()
        assert digests == digests1
        close(grads, grads1, 1e-10)
        assert step_losses[0] == step_losses1[0]
        assert norms == pytest.approx(norms1, rel=1e-4)
        assert step_losses == pytest.approx(step_losses1, rel=1e-6)
        close_parameters(parameters, parameters1)


def compiled_step(ranks):
    return first_step(small_config(ranks.world_size, compile=True), ranks)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler")
def test_ranks_do_not_change_results_of_compiled_operators(alone):
    one, two = (values(run_ranks(compiled_step, world))[0] for world in (1, 2))
    assert (one[0] == two[0]).all()
    assert one[1] == two[1]
    close(two[2], one[2], 1e-10)
    close(one[2], alone[1, "striped"][0][2], 1e-10)


def test_both_layouts_have_the_same_losses_and_carries(alone):
    striped, contiguous = (alone[1, layout][0] for layout in LAYOUTS)
    assert (striped[0] == contiguous[0]).all()
    assert striped[1] == contiguous[1]
    assert len(striped[1]) == 4 * 5 * 2 * 3  # sequences, inner edges, layers, parts
