"""An operator made of two pure functions, its forward and its backward, run call by call or compiled.

Operators between matrix products are bound by memory. Call by call, each line reads and writes whole tensors;
through torch.compile a function is one pass over them, or two where it sums over tokens.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tttscale.kernels.precision import without_autocast

Outputs = tuple[Tensor, ...]
Saved = tuple[Any, ...]
"""Tensors, None where there is none."""
Grads = tuple[Tensor | None, ...]
Forward = Callable[..., tuple[Outputs, Saved]]
Backward = Callable[[Saved, Outputs], Grads]
Again = Callable[[Saved, torch.dtype], Tensor]


_OPTIONS = {
    "deterministic": True,  # no choice of code by measured time
    # One pass: what several results need is computed for each of them, not written down in between.
    "realize_reads_threshold": 64,
    "realize_acc_reads_threshold": 64,
    "realize_opcount_threshold": 512,
}


class Operator:
    """A differentiable function of tensors.

    forward(*inputs) returns the outputs and what the backward needs; backward(saved, gradients) the gradients
    of the inputs, None for those that have none. again(saved, dtype), where there is one, forms the last
    output once more, bit for bit: products of it then need not keep it. All are functions of nothing but
    their arguments.
    """

    def __init__(self, forward: Forward, backward: Backward, again: Again | None = None) -> None:
        self.forward, self.backward, self.again = forward, backward, again

    def __call__(self, *inputs: Any) -> Any:
        """The outputs: a tensor, or a tuple of several."""
        # Without a graph autograd's own way through a function would take longer than one token's numbers do.
        run = _Apply.apply if torch.is_grad_enabled() else _without_graph
        outputs = run(self, *inputs)
        return outputs if len(outputs) > 1 else outputs[0]

    def compiled(self) -> "Operator":
        """The same through torch.compile, once for all lengths.

        Lengths are the second dim of tensors [B, T, ...] and the last of int64 ones; all else is fixed. The
        code does not depend on whether there is a graph, nor on anything timed: equal inputs, equal bits.
        """
        again = None if self.again is None else compiled(self.again)
        return Operator(compiled(self.forward), compiled(self.backward), again)


@without_autocast
def _without_graph(operator: Operator, *inputs: Any) -> Outputs:
    return operator.forward(*map(_detached, inputs))[0]


class _Apply(torch.autograd.Function):
    @staticmethod
    @without_autocast
    def forward(ctx: Any, operator: Operator, *inputs: Any) -> tuple[Tensor, ...]:
        """The outputs; keeps what the backward needs."""
        # Detached: compiled code is one for inputs that want gradients and another for those that do not.
        outputs, saved = operator.forward(*map(_detached, inputs))
        ctx.operator, ctx.last = operator, len(outputs) - 1
        ctx.save_for_backward(*saved)
        return outputs

    @staticmethod
    @once_differentiable
    @without_autocast
    def backward(ctx: Any, *grads: Tensor) -> Grads:
        """Gradients of the inputs; autograd rounds them to the inputs' dtypes."""
        return None, *ctx.operator.backward(ctx.saved_tensors, grads)


def source_of(x: Tensor) -> Any:
    """The node of the graph whose operator can form x again; None if there is none."""
    node: Any = x.grad_fn
    operator = getattr(node, "operator", None)
    if not isinstance(operator, Operator) or operator.again is None:
        return None
    return node if x.output_nr == node.last else None


def form_again(source: Any, dtype: torch.dtype) -> Tensor:
    """Form the tensor whose node `source_of` found, from what that node keeps for its own backward."""
    return source.operator.again(source.saved_tensors, dtype)


def _detached(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) else x


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A pure function through torch.compile, once for all lengths; see `Operator.compiled`."""
    fast = torch.compile(function, options=_OPTIONS)

    def run(*arguments: Any) -> Any:
        """Mark the lengths, and call the compiled function."""
        for argument in arguments:
            for x in argument if isinstance(argument, tuple) else (argument,):
                if isinstance(x, Tensor):
                    _mark_length(x)
        return fast(*arguments)

    return run


def _mark_length(x: Tensor) -> None:
    """Tell torch.compile which dim is a length. One of 1 is another case to it, with code of its own."""
    dim = 1 if x.dim() >= 3 else x.dim() - 1
    if (x.dim() >= 3 or x.dtype == torch.int64) and x.shape[dim] > 1:
        torch._dynamo.mark_dynamic(x, dim)
