"""What is assumed of GPUs that are not at hand. Nothing here was measured on one; each figure says why."""

from collections.abc import Mapping
from dataclasses import dataclass

from tttscale.errors import ConfigError
from tttscale.plan.devices import DEVICES, Device

Pair = tuple[float, float]


@dataclass(frozen=True)
class Chip:
    """What a generation of GPUs has in common."""

    clock_hz: float
    """At which serial kernels run: the usual clock under load, below the highest one."""
    multiprocessors: int
    chain_cycles: Mapping[str, Pair]
    """Inner learner -> cycles of *advance* and of its backward for a mini-batch of 16 tokens, head dim 64:
    the upper prediction of a static model of the compiled kernels (benchmarks/chains_predicted.md)."""
    parallel_cycles: Mapping[str, float]
    """Inner learner -> cycles in which the whole GPU runs all parallel kernels of a training step, or moves
    their bytes, whichever is longer, for 16 tokens of 32 heads of 64 (the same report)."""


@dataclass(frozen=True)
class Gpu:
    """Figures from which `costs.assumed` derives the costs of activities."""

    name: str
    bf16_flops: float
    """Matrix products in bf16 with what is pointwise between them."""
    fp32_flops: float
    """Matrix products in fp32 without tensor cores, with what is pointwise between them."""
    memory_bandwidth: float
    """Bytes per second."""
    chip: Chip
    same_host: Pair
    """Seconds, and bytes per second, of one message between two GPUs of a host."""
    between_hosts: Pair
    """Seconds, and bytes per second, of one message between two hosts."""
    half_tokens: int = 512
    """Tokens of a chunk at which products reach half of their rate."""
    launch: float = 60e-6
    """Seconds for which launches hold the device up in one forward run of a block; twice as much backward."""
    step_overhead: float = 0.02
    """Seconds of a step outside sweeps, reduction and optimizer."""


HOPPER = Chip(
    clock_hz=1.755e9,
    multiprocessors=132,
    chain_cycles={"linear": (923.0, 1240.0), "mlp": (5084.0, 8652.0)},
    parallel_cycles={"linear": 1351.0, "mlp": 4632.0},
)
AMPERE = Chip(
    clock_hz=1.41e9,
    multiprocessors=108,
    chain_cycles={"linear": (1073.0, 1503.0), "mlp": (9660.0, 10583.0)},
    parallel_cycles={"linear": 1875.0, "mlp": 6620.0},
)
CORE = Chip(
    clock_hz=3e9,
    multiprocessors=1,
    chain_cycles={"linear": (30e3, 40e3), "mlp": (120e3, 170e3)},
    parallel_cycles={"linear": 1.2e6, "mlp": 5e6},
)
"""One core of a server; known only roughly."""

_BF16_SHARE = 0.4
"""Share of a data sheet's peak that products of such a model reach with what is pointwise between them."""
_FP32_SHARE = 0.7
_MEMORY_SHARE = 0.8
_LINK_SHARE = 1 / 3
"""Share of a link's peak that messages of half a megabyte reach."""
_NETWORK = {"h": (25e-6, 40e9), "a": (25e-6, 20e9)}
"""By generation: 400 and 200 Gbit/s for each GPU, four fifths of them."""


def _assumed(device: Device) -> Gpu:
    return Gpu(
        device.name,
        _BF16_SHARE * device.bf16_flops,
        _FP32_SHARE * device.fp32_flops,
        _MEMORY_SHARE * device.memory_bandwidth,
        HOPPER if device.name.startswith("h") else AMPERE,
        (10e-6, _LINK_SHARE * device.link_bandwidth),
        _NETWORK[device.name[0]],
    )


GPUS = {name: _assumed(device) for name, device in DEVICES.items()} | {
    "cpu": Gpu(
        "cpu", 0.1e12, 0.1e12, 20e9, CORE, (50e-6, 2e9), (100e-6, 1e9), half_tokens=64, launch=2e-3
    )
}
"""All of which something is assumed, by the name that `--gpu` takes."""


def gpu_named(name: str) -> Gpu:
    """What is assumed of a GPU.

    Raises:
        ConfigError: nothing is.
    """
    if name.lower() not in GPUS:
        raise ConfigError(
            f"--gpu {name}: nothing is assumed of it; expected one of {', '.join(GPUS)}, or measured "
            "costs of this machine: `tttscale bench step --calibrate CONFIG`, then --gpu measured"
        )
    return GPUS[name.lower()]
