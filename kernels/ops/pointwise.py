"""Pointwise operators of the model: norms with their residual, gates, convolutions with rotary positions.

Every forward and backward here is written to be one pass over its tensors when compiled (compiled_op.py).
Arithmetic is in fp32 or wider, with parameters of any dtype; results are rounded once. Formulas:
../README.md, "Other operators".
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from tttscale.kernels.ops.compiled_op import Grads, Operator, Outputs, Saved
from tttscale.kernels.ops.cross_entropy import CrossEntropy
from tttscale.kernels.ops.linear import MultiLinear
from tttscale.kernels.precision import widened

_EPS = 1e-6
"""Epsilon of the LayerNorm after the scan (ttt-lm-pytorch, `post_norm`)."""

Result = tuple[Outputs, Saved]


@dataclass(frozen=True)
class Operators:
    """The model's operators, run call by call (`EAGER`) or compiled. Tokens are [B, T, ...]."""

    norm: Operator
    """(x, weight, eps, dtype) -> x, RMSNorm of x in dtype."""
    add_norm: Operator
    """(x, y, weight, eps, dtype, *parts) -> x + y, RMSNorm of it in dtype.

    parts: the summands of x, from left to right, to be kept for the backward in place of x; none to keep x.
    """
    swiglu: Operator
    """(gate, up) -> silu(gate) up."""
    gated_norm: Operator
    """(x, gate, weight, bias) -> LN(x) gelu(gate), or LN(x) if the gate is None."""
    causal_conv: Operator
    """(padded, rows, weight, bias) -> the causal convolution at the outputs `rows`, all if None."""
    queries_and_keys: Operator
    """(padded, rows, q's and k's weight and bias, cos, sin) -> both convolutions, with rotary positions."""
    rotary: Operator
    """(x, cos, sin) -> x with rotary positions; x is [B, T, H, f]."""
    linear: MultiLinear
    """(x, weights) -> x W^T for each of them."""
    cross_entropy: CrossEntropy
    """(x, weight, labels) -> the sum of the tokens' losses, and each."""

    def compiled(self) -> "Operators":
        """Each through torch.compile."""
        return Operators(**{f.name: getattr(self, f.name).compiled() for f in fields(self)})


# ---- RMSNorm and the residual before it -------------------------------------------------------


def _norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Result:
    rstd = torch.rsqrt(widened(x).square().mean(-1, keepdim=True) + eps)
    saved = x, rstd, weight
    return (x, _normed(saved, dtype)), saved


def _normed(saved: Saved, dtype: torch.dtype) -> Tensor:
    x, rstd, weight = saved
    # Back to x's dtype before it is scaled, as ttt-lm-pytorch has it.
    return ((widened(x) * rstd).to(x.dtype) * widened(weight)).to(dtype)


def _norm_gradients(saved: Saved, grads: Outputs) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight."""
    (x, rstd, weight), (d_x, d_normed) = saved, grads
    normed, d_scaled = widened(x) * rstd, widened(d_normed)
    d_weight = (d_scaled * normed).flatten(0, -2).sum(0)
    d_scaled = d_scaled * widened(weight)
    along = (d_scaled * normed).mean(-1, keepdim=True)
    d_x = d_x + rstd * (d_scaled - normed * along)
    return d_x.to(x.dtype), d_weight


def _norm_backward(saved: Saved, grads: Outputs) -> Grads:
    return *_norm_gradients(saved, grads), None, None


def _add_norm(
    x: Tensor, y: Tensor, weight: Tensor, eps: float, dtype: torch.dtype, *parts: Tensor
) -> Result:
    outputs, (_, *rest) = _norm(x + y, weight, eps, dtype)
    return outputs, (*rest, *(parts or (x,)), y)


def _summed(saved: Saved) -> Saved:
    """Form what `_norm` would have saved."""
    rstd, weight, first, *others = saved
    for part in others:
        first = first + part
    return first, rstd, weight


def _add_normed(saved: Saved, dtype: torch.dtype) -> Tensor:
    return _normed(_summed(saved), dtype)


def _add_norm_backward(saved: Saved, grads: Outputs) -> Grads:
    d_x, d_weight = _norm_gradients(_summed(saved), grads)
    d_y = d_x.to(grads[1].dtype)  # y comes from products, in the dtype of the normed
    # One None too many without parts, which is allowed.
    return d_x, d_y, d_weight, None, None, *[None] * (len(saved) - 3)


# ---- gates -----------------------------------------------------------------------------------------


def _swiglu(gate: Tensor, up: Tensor) -> Result:
    saved = gate, up
    return (_swiglu_again(saved, gate.dtype),), saved


def _swiglu_again(saved: Saved, dtype: torch.dtype) -> Tensor:
    gate, up = saved
    return (F.silu(widened(gate)) * widened(up)).to(dtype)


def _swiglu_backward(saved: Saved, grads: Outputs) -> Grads:
    gate, up, d_out = (widened(x) for x in (*saved, *grads))
    d_gate = torch.ops.aten.silu_backward(d_out * up, gate)
    dtype = grads[0].dtype
    return d_gate.to(dtype), (d_out * F.silu(gate)).to(dtype)


def _gated_norm(x: Tensor, gate: Tensor | None, weight: Tensor, bias: Tensor) -> Result:
    norm = widened(weight), widened(bias)
    y, mean, rstd = torch.native_layer_norm(widened(x), [x.shape[-1]], *norm, _EPS)
    if gate is not None:
        y = y * F.gelu(widened(gate), approximate="tanh")
    return (y.to(x.dtype),), (x, gate, weight, bias, mean, rstd)


def _gated_norm_again(saved: Saved, dtype: torch.dtype) -> Tensor:
    return _gated_norm(*saved[:4])[0][0]


def _gated_norm_backward(saved: Saved, grads: Outputs) -> Grads:
    x, gate, weight, bias, mean, rstd = saved
    wide, d_y, d_gate = widened(x), widened(grads[0]), None
    weight, bias = widened(weight), widened(bias)
    if gate is not None:
        wide_gate = widened(gate)
        y = (wide - mean) * rstd * weight + bias
        d_gate = torch.ops.aten.gelu_backward(d_y * y, wide_gate, approximate="tanh").to(gate.dtype)
        d_y = d_y * F.gelu(wide_gate, approximate="tanh")
    d_x, d_weight, d_bias = torch.ops.aten.native_layer_norm_backward(
        d_y, wide, [x.shape[-1]], mean, rstd, weight, bias, [True, True, True]
    )
    return d_x.to(x.dtype), d_gate, d_weight, d_bias


# ---- convolutions and rotary positions -------------------------------------------------------------


def _taps(weight: Tensor) -> Tensor:
    return widened(weight)[:, 0].t().contiguous()


def _convolve(wide: Tensor, rows: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """y_t = bias + sum_j weight_j wide_{t+j}, of the outputs asked for."""
    taps, length = _taps(weight), wide.shape[1] - weight.shape[-1] + 1
    out = torch.addcmul(widened(bias), wide[:, :length], taps[0])
    for j in range(1, len(taps)):
        out.addcmul_(wide[:, j : j + length], taps[j])
    return out if rows is None else out[:, rows]


def _convolve_backward(
    d_out: Tensor, wide: Tensor, rows: Tensor | None, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of wide, weight and bias."""
    taps, length = _taps(weight), wide.shape[1] - weight.shape[-1] + 1
    if rows is not None:
        outputs = d_out.new_zeros(d_out.shape[0], length, d_out.shape[2])
        d_out = outputs.index_copy(1, rows, d_out)
    reach = len(taps) - 1
    around = F.pad(d_out, (0, 0, reach, reach))
    d_wide, d_taps = torch.zeros_like(wide), []
    for j, tap in enumerate(taps):
        d_wide.addcmul_(around[:, reach - j : reach - j + wide.shape[1]], tap)
        d_taps.append((d_out * wide[:, j : j + length]).sum((0, 1)))
    return d_wide, torch.stack(d_taps, dim=-1).unsqueeze(1), d_out.sum((0, 1))


def _rotate(wide: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Adjacent pairs (a, b) of wide [B, T, H, f] -> (a cos - b sin, b cos + a sin).

    cos, sin: [K, f], for each feature; sin with the sign of its place. Positions are taken modulo K.
    """
    length, repeats = wide.shape[1], -(-wide.shape[1] // len(cos))
    cos, sin = (table.repeat(repeats, 1)[:length].unsqueeze(1) for table in (cos, sin))
    return turned(wide, cos, sin)


def turned(wide: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Adjacent pairs (a, b) -> (a cos - b sin, b cos + a sin), by tables of any shape that fits."""
    swapped = wide.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(wide * cos, swapped, sin)


def _causal_conv(padded: Tensor, rows: Tensor | None, weight: Tensor, bias: Tensor) -> Result:
    out = _convolve(widened(padded), rows, weight, bias).to(padded.dtype)
    return (out,), (padded, rows, weight)


def _causal_conv_backward(saved: Saved, grads: Outputs) -> Grads:
    padded, rows, weight = saved
    d_padded, d_weight, d_bias = _convolve_backward(
        widened(grads[0]), widened(padded), rows, weight
    )
    return d_padded.to(padded.dtype), None, d_weight, d_bias


def _queries_and_keys(
    padded: Tensor, rows: Tensor | None,
    q_weight: Tensor, q_bias: Tensor, k_weight: Tensor, k_bias: Tensor, cos: Tensor, sin: Tensor,
) -> Result:  # fmt: skip
    wide, heads = widened(padded), (-1, cos.shape[-1])
    q, k = (
        _rotate(_convolve(wide, rows, weight, bias).unflatten(-1, heads), cos, sin).to(padded.dtype)
        for weight, bias in ((q_weight, q_bias), (k_weight, k_bias))
    )
    return (q, k), (padded, rows, q_weight, k_weight, cos, sin)


def _queries_and_keys_backward(saved: Saved, grads: Outputs) -> Grads:
    padded, rows, *weights, cos, sin = saved
    wide = widened(padded)
    (d_q, *of_q), (d_k, *of_k) = (
        _convolve_backward(_rotate(widened(d), cos, -sin).flatten(-2), wide, rows, weight)
        for d, weight in zip(grads, weights, strict=True)
    )
    return (d_q + d_k).to(padded.dtype), None, *of_q, *of_k, None, None


def _rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Result:
    return (_rotate(widened(x), cos, sin).to(x.dtype),), (cos, sin)


def _rotary_backward(saved: Saved, grads: Outputs) -> Grads:
    cos, sin = saved
    return _rotate(widened(grads[0]), cos, -sin).to(grads[0].dtype), None, None


EAGER = Operators(
    norm=Operator(_norm, _norm_backward, _normed),
    add_norm=Operator(_add_norm, _add_norm_backward, _add_normed),
    swiglu=Operator(_swiglu, _swiglu_backward, _swiglu_again),
    gated_norm=Operator(_gated_norm, _gated_norm_backward, _gated_norm_again),
    causal_conv=Operator(_causal_conv, _causal_conv_backward),
    queries_and_keys=Operator(_queries_and_keys, _queries_and_keys_backward),
    rotary=Operator(_rotary, _rotary_backward),
    linear=MultiLinear(),
    cross_entropy=CrossEntropy(),
)
"""Each line of an operator is one call of torch, as a CPU runs it."""
