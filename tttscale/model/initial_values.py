"""Initial weights, as the PyTorch reference or as the JAX training code draws them."""

import math

import torch
from torch import Generator, Tensor, nn

from tttscale.model.architecture import TTTConfig
from tttscale.model.sequence_layer import Mixer, reset

_LECUN_TRUNCATION = 0.87962566103423978
"""Standard deviation of a unit normal cut at two sigma (flax, `lecun_normal`)."""


def initialise(model: nn.Module, config: TTTConfig, init: str, seed: int) -> None:
    """Fill all parameters in place; every sequence layer fills its own (`Mixer.reset`).

    Args:
        model: a TTTForCausalLM.
        config: its shape.
        init: "torch" (ttt-lm-pytorch) or "jax" (ttt-lm-jax): they differ in the convolutions only.
        seed: seeds a generator of its own; global random state is untouched. A model that was made on a GPU
            is drawn there, quickly, with other weights than on a CPU.

    Raises:
        ValueError: unknown init.
        MixerError: a sequence layer left a parameter alone.
    """
    if init not in ("torch", "jax"):
        raise ValueError(f"init {init!r}; expected 'torch' or 'jax'")
    device = next(model.parameters()).device
    generator = torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(seed)
    owners = {p: m for m in model.modules() if isinstance(m, Mixer) for p in m.parameters()}
    done: set[Mixer] = set()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            owner = owners.get(parameter)
            if owner is None:
                _fill(parameter, name, config, init, generator)
            elif owner not in done:
                done.add(owner)
                reset(owner, generator, init)


def _fill(parameter: Tensor, name: str, config: TTTConfig, init: str, generator: Generator) -> None:
    """What belongs to no sequence layer."""
    if ".conv.conv." in name:
        convolution(parameter, name, config.conv_kernel, init, generator)
    elif name.endswith(("proj.weight", "embed_tokens.weight", "lm_head.weight")):
        parameter.normal_(0, config.initializer_range, generator=generator)
    else:
        assert name.endswith("norm.weight"), f"no initial values for {name}"
        parameter.fill_(1)


def convolution(parameter: Tensor, name: str, taps: int, init: str, generator: Generator) -> None:
    """Fill a depthwise filter or its bias: PyTorch's default for Conv1d, or flax's lecun-normal and zero."""
    deviation = 1 / math.sqrt(taps)  # a depthwise filter's fan-in is its number of taps
    if init == "torch":
        parameter.uniform_(-deviation, deviation, generator=generator)
    elif name.endswith("weight"):
        std = deviation / _LECUN_TRUNCATION
        nn.init.trunc_normal_(parameter, 0, std, -2 * std, 2 * std, generator=generator)
    else:
        parameter.zero_()
