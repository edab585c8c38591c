"""Mixer: a sequence layer that declares what it hands on. Nothing outside its file knows which one it is.

A layer y, carry' = f(x, carry) receives and sends each part of its carry at two places of its forward; where
they stand is the overlap: receive as late, send as early as possible.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import Generator, Tensor

from tttscale.errors import MixerError
from tttscale.model.architecture import TTTConfig
from tttscale.model.chunk import Chunk
from tttscale.model.decode_state import OPEN, HeldPorts, Parts
from tttscale.model.layers import Layer
from tttscale.model.ports import Carried, CarryPort, LayerPorts, Part
from tttscale.model.registry import fault, mixer_class, options_of

__all__ = ["Carried", "Mixer", "build_mixer", "recv_state", "reset", "send_state"]


class Mixer(Layer):
    """A sequence layer; subclass it and name it in `model.pattern`.

    A random number in forward (dropout) would differ between a chunk's first run and its recomputation, so
    there must be none. What crosses layers cannot be carried.
    """

    class Options(BaseModel):
        """Fields of `model.options.NAME`; unknown ones are errors."""

        model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    feed_forward: ClassVar[bool] = True
    """Whether a SwiGLU follows in its block."""

    def __init__(self, config: TTTConfig, options: Any) -> None:
        """Make the parameters; `reset` gives them their values.

        Args:
            config: of the model.
            options: an instance of this class' `Options`.
        """
        super().__init__()
        self.config, self.options = config, options

    @classmethod
    def alignment(cls, config: TTTConfig, options: Any) -> int:
        """Chunks and documents begin at multiples of so many tokens."""
        return 1

    def carry(self, batch: int, tokens: int) -> dict[str, Carried]:
        """The parts of the carry after `tokens` > 0 tokens of a sequence, by name.

        In the order in which forward meets them; its backward meets them in reverse. Only shapes may depend
        on the tokens.
        """
        raise NotImplementedError

    def reset(self, generator: Generator, init: str) -> None:
        """Fill all parameters with their initial values; one left alone is an error.

        Args:
            generator: the only source of random numbers.
            init: "torch" or "jax", for layers that know both.
        """
        raise NotImplementedError

    def forward(self, h: Tensor, chunk: Chunk, ports: LayerPorts) -> Tensor:
        """The normed input [B, C, D] -> what is added to the residual stream, [B, C, D].

        Args:
            h: normed input.
            chunk: its place, document starts and padding.
            ports: one for each part that `carry` declares.
        """
        raise NotImplementedError

    def step(self, h: Tensor, positions: Sequence[int], held: Parts) -> tuple[Tensor, Parts]:
        """Read one token of every row, as generation does; a layer may know a cheaper way than this one.

        The tokens since the last place where a chunk may end are run again, together with this one.

        Args:
            h: normed input [B, 1, D].
            positions: tokens that each row has read before; here the same for all rows.
            held: what the layer has kept of them: nothing at position 0.

        Returns:
            What is added to the residual stream, [B, 1, D], and what the layer keeps now.

        Raises:
            MixerError: rows stand at different positions.
        """
        unit = type(self).alignment(self.config, self.options)
        if len(set(positions)) > 1:
            raise MixerError(
                f"{type(self).__qualname__}: rows of a batch stand at different positions, {[*positions]}, "
                "and the layer has no step() of its own. Give all prompts one length, or generate row by row"
            )
        opened = torch.cat([*held.get(OPEN, ()), h], dim=1)
        ports = HeldPorts(held)
        out = self(opened, Chunk(begin=positions[0] - opened.shape[1] + 1), ports)
        if opened.shape[1] == unit:
            return out[:, -1:], ports.sent()
        return out[:, -1:], {n: p for n, p in held.items() if n != OPEN} | {OPEN: (opened,)}


def build_mixer(name: str, config: TTTConfig) -> Mixer:
    """The layer that `model.pattern` calls so.

    Raises:
        MixerError: there is none, or its options are wrong.
    """
    try:
        cls = mixer_class(name)
        options = options_of(config, name, cls)
    except ValueError as error:
        raise MixerError(f"model.pattern: {name!r}: {error}") from None
    try:
        return cls(config, options)
    except Exception as error:  # code of someone's own may raise anything
        raise MixerError(f"model.pattern: {name!r} cannot be made: {fault(error)}") from error


def reset(layer: Mixer, generator: Generator, init: str) -> None:
    """Call a layer's `reset`.

    Raises:
        MixerError: it failed, or left a parameter alone, or one is not to be trained.
    """
    numbers = [(n, p) for n, p in layer.named_parameters() if p.is_floating_point()]
    for _, parameter in numbers:
        parameter.fill_(torch.nan)
    kind = type(layer).__qualname__
    try:
        layer.reset(generator, init)
    except Exception as error:  # code of someone's own may raise anything
        raise MixerError(f"{kind}: reset() failed: {fault(error)}") from error
    for name, parameter in layer.named_parameters():
        if not parameter.requires_grad:  # the optimizer would still let it decay
            raise MixerError(
                f"{kind}: the parameter {name} takes no gradient, but all parameters are trained; "
                "make it a buffer (register_buffer), which is saved with the weights too"
            )
    for name, parameter in numbers:
        if not parameter.is_meta and bool(parameter.isnan().any()):
            raise MixerError(f"{kind}: reset() gives the parameter {name} no value; fill it there")


def recv_state(port: CarryPort, *tokens: Tensor) -> tuple[tuple[Tensor, ...], Part | None]:
    """Receive one part of the carry, in plain autograd.

    Args:
        port: of the part.
        tokens: what forward uses together with the part. They pass through unchanged, so that the part's
            gradient is sent, once and in order, even if nothing used the part.

    Returns:
        The tokens, to be used from here on, and the part; None where a sequence begins.
    """
    received = port.recv_state()
    if received is None or not torch.is_grad_enabled():
        return tokens, received
    passed = cast("tuple[Tensor, ...]", _RecvState.apply(port, len(tokens), *tokens, *received))
    return passed[: len(tokens)], passed[len(tokens) :]


def send_state(port: CarryPort, out: Tensor, part: Part) -> Tensor:
    """Send one part of the carry, in plain autograd.

    Args:
        port: of the part.
        out: anything computed after the part is known and used afterwards. It passes through unchanged; its
            backward first receives the part's gradient.
        part: tensors of the shapes and dtype that `carry` declares.

    Returns:
        `out`, to be used from here on.
    """
    if not torch.is_grad_enabled():
        port.send_state(part)
        return out
    return cast("Tensor", _SendState.apply(port, out, *part))


class _RecvState(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, port: CarryPort, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Pass all on."""
        ctx.port, ctx.count, ctx.rest = port, count, len(tensors) - count
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Send the part's gradient; zeros if it was not used."""
        ctx.port.send_grad(grads[ctx.count :])
        return None, None, *grads[: ctx.count], *[None] * ctx.rest


class _SendState(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, port: CarryPort, out: Tensor, *part: Tensor) -> Tensor:
        """Send the part."""
        ctx.port, ctx.count = port, len(part)
        port.send_state(part)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Receive the part's gradient."""
        received = ctx.port.recv_grad()
        return None, grad, *(received or [None] * ctx.count)
