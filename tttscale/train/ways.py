"""How a run computes, said at its start: a slower way is never taken silently."""

import torch

from tttscale.config import Config
from tttscale.kernels.scan import choose_backend
from tttscale.model.registry import kinds_of, mixer_class
from tttscale.observe import human
from tttscale.scan.keep_policy import ActivationPolicy


def ways(config: Config, device: torch.device, compiles: bool, world_size: int) -> list[str]:
    """Say how a run computes and what carries its messages, each with its reason.

    Args:
        config: the run's.
        device: where it computes.
        compiles: whether operators are compiled by torch.compile.
        world_size: ranks of the job.
    """
    lines = [*_layers(config, device), _operators(config, device, compiles)]
    if world_size > 1:
        library = "gloo, as ranks compute on CPUs" if device.type == "cpu" else "NCCL"
        lines.append(f"messages: over {library}")
    return lines


def _layers(config: Config, device: torch.device) -> list[str]:
    shape = config.architecture()
    kinds = {name: getattr(mixer_class(name), "kind", None) for name in kinds_of(shape)}
    lines = [_scan(config, device, kind) for kind in sorted(filter(None, {*kinds.values()}))]
    if own := [name for name, kind in kinds.items() if kind is None]:
        lines.append(f"layers with code of their own: {', '.join(own)}")
    return lines


def _scan(config: Config, device: torch.device, kind: str) -> str:
    shape = config.architecture()
    dtype = torch.bfloat16 if config.train.precision == "bf16" else torch.float32
    dim, size = shape.head_dim, shape.mini_batch_size
    taken = choose_backend("auto", kind, device, dim, size, dtype)
    what = f"{kind}, head dim {dim}, mini-batches of {size}, {config.train.precision}"
    if taken.missing is None:
        return f"scan: Triton's kernels on {device} ({what})"
    if device.type == "cpu":
        return f"scan: torch on {device} ({what}); Triton's kernels {taken.missing}"
    return f"scan: torch on {device} ({what}), which is slower: Triton's kernel {taken.missing}"


def _operators(config: Config, device: torch.device, compiles: bool) -> str:
    asked = str(config.train.compile).lower()
    if compiles:
        return f"operators between products: compiled by torch.compile (train.compile = {asked})"
    if device.type == "cpu":
        return f"operators between products: eager (train.compile = {asked}, on a CPU)"
    return f"operators between products: eager, which is slower on a GPU (train.compile = {asked})"


def kept(config: Config, keep: ActivationPolicy, own_chunks: int) -> str | None:
    """Say what "auto" has become for `parallel.keep_chunks`; None if a number is configured.

    Args:
        config: the run's.
        keep: after a step.
        own_chunks: chunks of this rank in a step.
    """
    if config.parallel.keep_chunks != "auto" or keep.chunk_bytes is None:
        return None
    chunks = min(keep.chunks, own_chunks)
    again = own_chunks - chunks
    return (
        f"parallel.keep_chunks = auto: {chunks:.4g} of {own_chunks} chunks of a rank keep their activations, "
        f"{human(keep.chunk_bytes, 1024)}B each, as memory allows"
        f"{f'; {again:.4g} are computed twice' * (again > 0)}"
    )
