"""Building blocks of all Triton kernels: products in the compute dtype, row sums, LayerNorm, gelu, blocks.

Legend of dimensions, for all kernels of this package (capitals but T are known when a kernel is compiled):

    T      tokens of a scan: of one segment of one sequence
    N      scans, sequences x heads; n is the one that a program works on
    F, FP  features of a head (f in formulas), and rounded up to a power of two, as Triton's tiles need it
    K      tokens of a mini-batch
    BLOCK  mini-batches of a block. Its BLOCK K tokens (64 in bf16, 32 in fp32) lie between two saved
           states. It is no CUDA block: that is called a program here, as Triton does
    I, IB  inner width (F for TTT-Linear, 4 F for TTT-MLP), and how many of its columns are taken at a time
    BF16   whether tokens are bf16; else fp32

Under Triton's interpreter (TRITON_INTERPRET=1) bf16 arithmetic is wrong and fp32 -> bf16 truncates, so there
the operands are rounded by hand and multiplied in fp32: the same products as on the device.
"""

# Triton types its functions as ones that never return.
# pyright: reportGeneralTypeIssues=false

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
_GELU_C = tl.constexpr(0.7978845608028654)
_GELU_A = tl.constexpr(0.044715)
_EXPONENT = tl.constexpr(-2 * 0.7978845608028654 * 1.4426950408889634)
"""exp2(x (1 + a x^2) times this) is exp(-2 c (x + a x^3))."""


@triton.jit
def nearest_bf16(x):
    """fp32 rounded to the nearest bf16, ties to even, still in fp32."""
    bits = x.to(tl.int32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def narrow(x, BF16: tl.constexpr):
    """x as products take it. Before a transposition threads then exchange half as many bytes."""
    if BF16 and not INTERPRETED:
        x = x.to(tl.bfloat16)
    return x


@triton.jit
def mma(a, b, acc, BF16: tl.constexpr):
    """acc + a b in fp32; operands in bf16 or, exactly, in fp32."""
    if BF16:
        if INTERPRETED:
            a, b = nearest_bf16(a.to(tl.float32)), nearest_bf16(b.to(tl.float32))
            return tl.dot(a, b, acc, input_precision="ieee")
        else:
            return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16), acc)
    else:
        return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def store(pointers, x, mask):
    """Store fp32 into memory of its own dtype, rounded to nearest."""
    if INTERPRETED and pointers.dtype.element_ty == tl.bfloat16:
        x = nearest_bf16(x)
    tl.store(pointers, x, mask=mask)


@triton.jit
def load(pointers, mask):
    """Load as fp32; 0 where masked."""
    return tl.load(pointers, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _add4(a0, a1, a2, a3, b0, b1, b2, b3):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3


@triton.jit
def row_sums4(a, b, c, d):
    """Sum four tiles over their columns, [rows, 1] each, in one reduction.

    One `tl.reduce` of a tuple: warp shuffles and, where a row lies in several warps, one exchange through
    shared memory with one barrier, not four.
    """
    if INTERPRETED:  # a custom combine function is a slow Python loop there
        a, b, c, d = tl.sum(a, 1), tl.sum(b, 1), tl.sum(c, 1), tl.sum(d, 1)
    else:
        a, b, c, d = tl.reduce((a, b, c, d), 1, _add4)
    return a[:, None], b[:, None], c[:, None], d[:, None]


@triton.jit
def normalised(z, cols_ok, F: tl.constexpr):
    """x^ [rows, FP] and 1/sigma [rows, 1] of rows z [rows, FP], of which the first F columns count."""
    mean = tl.sum(z, 1)[:, None] / F
    centred = tl.where(cols_ok, z - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1)[:, None] / F + 1e-6)
    return centred * rstd, rstd


@triton.jit
def norm_backward(a, normed, rstd, cols_ok, F: tl.constexpr):
    """LNb(a) = s (a - mean(a) - x^ mean(a x^)); a is 0 in the padded columns."""
    mean = tl.sum(a, 1)[:, None] / F
    along = tl.sum(a * normed, 1)[:, None] / F
    return tl.where(cols_ok, (a - mean - normed * along) * rstd, 0.0)


@triton.jit
def _gelu_gate(x):
    """s = (1 + tanh(c (x + a x^3))) / 2, a logistic, and x^2. One exponential and one reciprocal root."""
    square = x * x
    root = tl.rsqrt(1 + tl.exp2(x * (square * (_GELU_A * _EXPONENT) + _EXPONENT)))
    return root * root, square


@triton.jit
def gelu(x):
    """x s."""
    s, _ = _gelu_gate(x)
    return x * s


@triton.jit
def gelu_and_slope(x):
    """gelu(x) and gelu'(x) = s + 2 x s (1 - s) c (1 + 3 a x^2)."""
    s, square = _gelu_gate(x)
    value = x * s
    return value, s + value * (1 - s) * (square * (6 * _GELU_A * _GELU_C) + 2 * _GELU_C)


@triton.jit
def gelu_slope_curvature(x):
    """gelu(x), gelu'(x) and gelu''(x) = s (1 - s) (2 j + (1 - 2 s) x j^2 + x j'), j = 2 c (1 + 3 a x^2)."""
    s, square = _gelu_gate(x)
    value, bell = x * s, s * (1 - s)
    inner = square * (6 * _GELU_A * _GELU_C) + 2 * _GELU_C  # j
    slope = s + x * bell * inner
    curvature = bell * (inner * (2 + (1 - 2 * s) * x * inner) + square * (12 * _GELU_A * _GELU_C))
    return value, slope, curvature


@triton.jit
def weights_of_pairs(rows, tau, tau_last, K: tl.constexpr):
    """How strongly reader i (rows) reads the inner gradient of token j (columns) of its block, over lam_j.

    Same mini-batch: tau_i where j <= i; an earlier one: tau_last; 0 otherwise. The second result is the same
    for the keys' own Z: tau_last of an earlier mini-batch, else 0. A mini-batch before another one is never
    short, so its last factor is tau[K - 1].
    """
    i, j = rows[:, None], rows[None, :]
    earlier = tl.where(j // K < i // K, tau_last, 0.0)
    return tl.where((j // K == i // K) & (j <= i), tau[:, None], earlier), earlier


@triton.jit
def tau_sums(rows, pairs, scores, lam, K: tl.constexpr):
    """Sum gradients of readers' factors [BLOCK K], and of the last one, used for earlier mini-batches.

    pairs, scores: [readers, sources], products of gradients dZq G^T and of inputs.
    """
    i, j = rows[:, None], rows[None, :]
    terms = pairs * scores * lam[None, :]
    own = -tl.sum(tl.where((j // K == i // K) & (j <= i), terms, 0.0), 1)
    return own, -tl.sum(tl.where(j // K < i // K, terms, 0.0))


@triton.jit
def block_of(
    stride_b, stride_h, stride_t, T, heads, FP: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Find this program's block of mini-batches, for a grid of (blocks, scans).

    Returns:
        (head, rows, cols, rows_ok, tokens, token, before, saved): its head; indices [BLOCK K] and [FP] of a
        tile, and which rows are tokens; the block's offset in tensors with q's strides, and those of a tile
        in it [BLOCK K, FP]; the tokens before the block, and the blocks before it, of all scans.
    """
    block, n = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    first = block * BLOCK * K
    rows, cols = tl.arange(0, BLOCK * K), tl.arange(0, FP)
    tokens = (n // heads) * stride_b + (n % heads) * stride_h + first * stride_t
    token = rows[:, None] * stride_t + cols[None, :]
    blocks = n * tl.num_programs(0) + block
    return n % heads, rows, cols, first + rows < T, tokens, token, n * T + first, blocks


@triton.jit
def rates_of(lr_ptr, tau_ptr, rows, rows_ok, K: tl.constexpr):
    """Load lam [BLOCK K] of the block at lr_ptr, and form both results of `weights_of_pairs`."""
    tau = tl.load(tau_ptr + rows % K)
    reads, moves = weights_of_pairs(rows, tau, tl.load(tau_ptr + K - 1), K)
    return load(lr_ptr + rows, rows_ok), reads, moves
