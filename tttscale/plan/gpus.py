"""What is assumed of GPUs that are not at hand. Nothing here was measured on one; each figure says why."""

from collections.abc import Mapping
from dataclasses import dataclass

from tttscale.errors import ConfigError


@dataclass(frozen=True)
class Gpu:
    """Figures from which `costs.assumed` derives the costs of activities."""

    name: str
    bf16_flops: float
    """Matrix products in bf16 with what is pointwise between them: about 40 % of the dense peak."""
    fp32_flops: float
    """The same in fp32, without tensor cores: about 70 % of the peak."""
    clock_hz: float
    """At which serial kernels run: the usual clock under load, below the highest one."""
    multiprocessors: int
    memory_bytes: int
    memory_bytes_per_second: float
    """80 % of the data sheet's."""
    chain_cycles: Mapping[str, tuple[float, float]]
    """Inner learner -> cycles of *advance* and of its backward for a mini-batch of 16 tokens, head dim 64:
    the upper prediction of a static model of the compiled kernels (benchmarks/chains_predicted.md)."""
    parallel_cycles: Mapping[str, float]
    """Inner learner -> cycles in which the whole GPU runs all parallel kernels of a training step, or moves
    their bytes, whichever is longer, for 16 tokens of 32 heads of 64 (the same report)."""
    same_host: tuple[float, float]
    """Seconds, and bytes per second, of one message between two GPUs of a host."""
    between_hosts: tuple[float, float]
    """The same between hosts."""
    reduce_bytes_per_second: float
    """At which a rank hands on its share of a reduction."""
    half_tokens: int = 512
    """Tokens of a chunk at which products reach half of their rate."""
    launch: float = 60e-6
    """Seconds for which launches hold the device up in one forward run of a block; twice as much backward."""
    step_overhead: float = 0.02
    """Seconds of a step outside sweeps, reduction and optimizer."""


_SM90 = {"linear": (923.0, 1240.0), "mlp": (5084.0, 8652.0)}
_SM80 = {"linear": (1073.0, 1503.0), "mlp": (9660.0, 10583.0)}
_PARALLEL_SM90 = {"linear": 1351.0, "mlp": 4632.0}
_PARALLEL_SM80 = {"linear": 1875.0, "mlp": 6620.0}
_GIB = 2**30

GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            "h200", 400e12, 47e12, 1.755e9, 132, 141 * 10**9, 0.8 * 4.8e12,
            _SM90, _PARALLEL_SM90, (10e-6, 150e9), (25e-6, 40e9), 40e9,
        ),
        Gpu(
            "h100", 400e12, 47e12, 1.755e9, 132, 80 * 10**9, 0.8 * 3.35e12,
            _SM90, _PARALLEL_SM90, (10e-6, 150e9), (25e-6, 40e9), 40e9,
        ),
        Gpu(
            "a100", 150e12, 14e12, 1.41e9, 108, 80 * 10**9, 0.8 * 2.039e12,
            _SM80, _PARALLEL_SM80, (10e-6, 100e9), (25e-6, 20e9), 20e9,
        ),
        Gpu(
            "cpu", 0.1e12, 0.1e12, 3e9, 1, 16 * 10**9, 20e9,
            {"linear": (30e3, 40e3), "mlp": (120e3, 170e3)}, {"linear": 1.2e6, "mlp": 5e6},
            (50e-6, 2e9), (100e-6, 1e9), 1e9, half_tokens=64, launch=2e-3,
        ),
    )
}  # fmt: skip
"""By name. "cpu" is one core of a server, known only roughly."""


def gpu_named(name: str) -> Gpu:
    """What is assumed of a GPU.

    Raises:
        ConfigError: nothing is.
    """
    if name.lower() not in GPUS:
        raise ConfigError(
            f"--gpu {name}: nothing is assumed of it; expected one of {', '.join(GPUS)}, or measured "
            "costs of this machine: `tttscale bench step --calibrate CONFIG`, then --costs FILE"
        )
    return GPUS[name.lower()]
