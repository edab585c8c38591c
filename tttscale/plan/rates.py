"""Figures of a measured step: model FLOPs per second, and what share of the devices' peak that is."""

from typing import TypedDict

from tttscale.config import Config
from tttscale.plan.devices import known_device
from tttscale.plan.flops import sweep_flops
from tttscale.scan.layout import Layout

_TERA = 1e12
_known: dict[tuple[str, int, int], float | None] = {}
"""FLOPs per token by model, sequence length and chunk length."""


class StepRates(TypedDict):
    """Fields of a step's record."""

    model_flops_per_second: float | None
    """FLOP/s of the whole job; None if a layer of someone's own cannot be counted."""
    mfu: float | None
    """Share of all devices' peak; None if their peak is unknown."""


def step_rates(
    config: Config, tokens: float, seconds: float, world: int, device_name: str
) -> StepRates:
    """Rates of one step.

    Args:
        config: the run's.
        tokens: with a loss, of all ranks; padding is computed too, but is no use.
        seconds: that the step took.
        world: ranks of the job, each with one device.
        device_name: as `torch.cuda.get_device_name()` has it; "cpu" for a CPU.

    Returns:
        Fields for metrics.jsonl; None where a figure would have to be guessed.
    """
    of_token = flops_per_token(config)
    if of_token is None or seconds <= 0:
        return {"model_flops_per_second": None, "mfu": None}
    rate = of_token * tokens / seconds
    peak = peak_flops(config, device_name)
    return {"model_flops_per_second": rate, "mfu": None if peak is None else rate / (world * peak)}


def flops_per_token(config: Config) -> float | None:
    """Model FLOPs of a token, forward and backward; None if a layer cannot be counted."""
    architecture = config.architecture()
    lengths = config.data.sequence_length, config.parallel.chunk_length
    key = architecture.model_dump_json(), *lengths
    if key not in _known:
        found = sweep_flops(architecture, Layout("striped", *lengths))
        _known[key] = None if found.unknown else found.model_per_token
    return _known[key]


def peak_flops(config: Config, device_name: str) -> float | None:
    """Peak of one device in FLOP/s at `train.precision`; None if unknown."""
    if config.logging.peak_tflops is not None:
        return config.logging.peak_tflops * _TERA
    device = known_device(device_name)
    return None if device is None else device.peak_flops(config.train.precision)
