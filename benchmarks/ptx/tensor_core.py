"""What a warp, or four, do together: matrix products, and loads and stores of their fragments.

Layouts are those of the PTX manual. Values are exact products of bf16, summed in fp64 and rounded to fp32.
"""

from collections.abc import Sequence

import numpy as np

LANES = 32
LANE = np.arange(LANES)
GROUP, IN_GROUP = LANE // 4, LANE % 4


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """uint16 -> float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """float32 -> uint16, to nearest, ties to even."""
    bits = x.view(np.uint32)
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def halves(words: np.ndarray) -> np.ndarray:
    """[..., w] uint32 -> [..., 2 w] uint16, low half first."""
    return (
        np.stack([words & 0xFFFF, words >> 16], -1).astype(np.uint16).reshape(*words.shape[:-1], -1)
    )


def _warps(registers: Sequence[np.ndarray]) -> np.ndarray:
    """List of [threads] -> [warps, lanes, registers]."""
    return np.stack(registers, -1).reshape(-1, LANES, len(registers))


def fragment_a(registers: Sequence[np.ndarray]) -> np.ndarray:
    """Four registers of 16 x 16 bf16 -> [warps, 16, 16] fp32."""
    pairs = from_bf16(halves(_warps(registers))).reshape(-1, LANES, 4, 2)
    out = np.empty((len(pairs), 16, 16), np.float32)
    for i, (row, column) in enumerate(((0, 0), (8, 0), (0, 8), (8, 8))):
        for j in range(2):
            out[:, GROUP + row, 2 * IN_GROUP + column + j] = pairs[:, :, i, j]
    return out


def fragment_b(registers: Sequence[np.ndarray]) -> np.ndarray:
    """Two registers of 16 x 8 bf16 -> [warps, 16, 8] fp32."""
    pairs = from_bf16(halves(_warps(registers))).reshape(-1, LANES, 2, 2)
    out = np.empty((len(pairs), 16, 8), np.float32)
    for i in range(2):
        for j in range(2):
            out[:, 8 * i + 2 * IN_GROUP + j, GROUP] = pairs[:, :, i, j]
    return out


def accumulators(registers: Sequence[np.ndarray]) -> np.ndarray:
    """Four registers for every 8 columns of 16 rows, fp32 bits -> [warps, 16, columns]."""
    values = _warps(registers).view(np.float32)
    out = np.empty((len(values), 16, 2 * len(registers)), np.float32)
    for i in range(len(registers)):
        row, column = 8 * (i // 2 % 2), 8 * (i // 4) + i % 2
        out[:, GROUP + row, 2 * IN_GROUP + column] = values[:, :, i]
    return out


def registers_of(matrix: np.ndarray) -> list[np.ndarray]:
    """The inverse of `accumulators`."""
    out = []
    for i in range(matrix.shape[2] // 2):
        row, column = 8 * (i // 2 % 2), 8 * (i // 4) + i % 2
        values = matrix[:, GROUP + row, 2 * IN_GROUP + column]
        out.append(np.ascontiguousarray(values).view(np.uint32).reshape(-1))
    return out


def product(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a b + c, rounded to fp32."""
    return (a.astype(np.float64) @ b.astype(np.float64) + c).astype(np.float32)


# ---- fragments in shared memory ----------------------------------------------------------------------


def matrix_rows(addresses: np.ndarray, count: int) -> np.ndarray:
    """Row addresses of 8 x 8 matrices, given by 8 lanes for each -> [warps, count, 8]."""
    return addresses.reshape(-1, LANES)[:, : 8 * count].reshape(-1, count, 8)


def matrix_places(rows: np.ndarray) -> np.ndarray:
    """[warps, count, 8] -> places of their 8 numbers each, [warps * count * 8, 8]."""
    return rows.reshape(-1, 1) // 2 + np.arange(8)


def to_lanes(matrices: np.ndarray, transposed: bool) -> list[np.ndarray]:
    """[warps, count, 8, 8] uint16 -> a register for each matrix, [threads] uint32."""
    if transposed:
        matrices = matrices.swapaxes(-1, -2)
    low, high = (matrices[:, :, GROUP, 2 * IN_GROUP + j].astype(np.uint32) for j in range(2))
    words = low | high << 16
    return [words[:, i].reshape(-1) for i in range(words.shape[1])]


def from_lanes(registers: Sequence[np.ndarray], transposed: bool) -> np.ndarray:
    """The inverse."""
    words = _warps(registers)
    out = np.empty((len(words), len(registers), 8, 8), np.uint16)
    for i in range(len(registers)):
        out[:, i, GROUP, 2 * IN_GROUP] = words[:, :, i] & 0xFFFF
        out[:, i, GROUP, 2 * IN_GROUP + 1] = words[:, :, i] >> 16
    return out.swapaxes(-1, -2) if transposed else out


# ---- operands of wgmma in shared memory --------------------------------------------------------------


def described_places(descriptor: int, outer: int, transposed: bool) -> np.ndarray:
    """Places of an operand with `outer` rows (of A) or columns (of B), 16 deep: [outer, 16].

    A matrix descriptor has the start address, two strides and a swizzle; the canonical layouts are those of
    the PTX manual, in units of 16 bytes: 8 numbers along the depth or, transposed, along the outside.
    """
    start = (descriptor & 0x3FFF) << 4
    leading = ((descriptor >> 16) & 0x3FFF) << 4
    stride = ((descriptor >> 32) & 0x3FFF) << 4
    mode = (descriptor >> 62) & 3
    assert (descriptor >> 49) & 7 == 0, "a base offset"
    width = {0: 1, 1: 8, 2: 4, 3: 2}[mode]  # 16-byte units of a swizzled row
    m, k = np.arange(outer)[:, None], np.arange(16)[None, :]
    if not transposed:
        if mode == 0:
            offset = (m % 8) * 16 + (m // 8) * stride + (k // 8) * leading + (k % 8) * 2
        else:
            offset = (m % 8) * (16 * width) + (m // 8) * stride + k * 2
    else:
        unit = m // 8
        inside, block = unit % width, unit // width
        if mode == 0:
            offset = block * stride + (k % 8) * 16 + (k // 8) * leading + (m % 8) * 2
        else:
            rows = (k % 8) * (16 * width) + (k // 8) * stride
            offset = inside * 16 + block * leading + rows + (m % 8) * 2
    address = start + offset
    bits = {0: 0, 1: 7, 2: 3, 3: 1}[mode]
    return (address ^ (((address >> 7) & bits) << 4)) // 2
