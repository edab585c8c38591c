"""Initial weights, as the PyTorch reference or as the JAX training code draws them."""

import math

import torch
from torch import Generator, Tensor, nn

from tttscale.model.architecture import TTTConfig

_LECUN_TRUNCATION = 0.87962566103423978
"""Standard deviation of a unit normal cut at two sigma (flax, `lecun_normal`)."""


def initialise(model: nn.Module, config: TTTConfig, init: str, seed: int) -> None:
    """Fill all parameters in place.

    Args:
        model: a TTTForCausalLM.
        config: its shape.
        init: "torch" (ttt-lm-pytorch) or "jax" (ttt-lm-jax): they differ in the convolutions only.
        seed: seeds a generator of its own; global random state is untouched. A model that was made on a GPU
            is drawn there, quickly, with other weights than on a CPU.

    Raises:
        ValueError: unknown init.
    """
    if init not in ("torch", "jax"):
        raise ValueError(f"init {init!r}; expected 'torch' or 'jax'")
    device = next(model.parameters()).device
    generator = torch.Generator(device if device.type == "cuda" else "cpu").manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".conv" in name and ".norm." not in name:
                is_weight = name.endswith("weight")
                _convolution(parameter, is_weight, config.conv_kernel, init, generator)
            elif _is_normal(name):
                parameter.normal_(0, config.initializer_range, generator=generator)
            elif name.endswith("norm.weight") or name.endswith("ttt_norm_weight"):
                parameter.fill_(1)
            else:
                parameter.zero_()


def _is_normal(name: str) -> bool:
    matrices = ("proj.weight", "embed_tokens.weight", "lm_head.weight", "learnable_ttt_lr_weight")
    return name.endswith((*matrices, ".W1", ".W2"))


def _convolution(
    parameter: Tensor, is_weight: bool, taps: int, init: str, generator: Generator
) -> None:
    """PyTorch's default for Conv1d, or flax's: lecun-normal taps and zero bias."""
    deviation = 1 / math.sqrt(taps)  # a depthwise filter's fan-in is its number of taps
    if init == "torch":
        parameter.uniform_(-deviation, deviation, generator=generator)
    elif is_weight:
        std = deviation / _LECUN_TRUNCATION
        nn.init.trunc_normal_(parameter, 0, std, -2 * std, 2 * std, generator=generator)
    else:
        parameter.zero_()
