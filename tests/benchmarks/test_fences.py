"""Products that read shared memory without a fence since it was written are found, on every path."""

import pytest

from benchmarks.static.fences import unfenced

TILE = "!ttg.memdesc<64x32xbf16, #shared, #smem, mutable>"
FENCE = "ttng.fence_async_shared {bCluster = false} loc(#loc7)"
FROM_REGISTERS = f"%tile = ttg.local_alloc %x : (tensor<64x32xbf16, #blocked>) -> {TILE} loc(#loc)"
ROOM = f"%tile = ttg.local_alloc : () -> {TILE}"
COPY = (
    f"%t = ttg.async_copy_global_to_local %p, %at mask %ok : tensor<64x32x!tt.ptr<bf16>> -> {TILE}"
)
VIEW = f"%at = ttg.memdesc_index %tile[%i] : {TILE} -> {TILE}"
STORE = f"ttg.local_store %x, %at : tensor<64x32xbf16, #blocked> -> {TILE}"
PRODUCT = (
    f"%out = ttng.warp_group_dot %a, %tile, %acc {{inputPrecision = 0 : i32}} : "
    f"tensor<64x64xbf16, #ttg.dot_op<{{opIdx = 0}}>> * {TILE} -> tensor<64x32xf32, #mma> loc(#loc1)"
)
LOOP = "%r:2 = scf.for %i = %c0 to %c4 step %c1 iter_args(%s = %z) -> (f32) : i32 {"
IF = "scf.if %c {"
ELSE, END = "} else {", "} loc(#loc9)"


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ([FROM_REGISTERS, PRODUCT], True),
        ([FROM_REGISTERS, FENCE, PRODUCT], False),
        ([ROOM, VIEW, PRODUCT], False),  # nothing wrote it
        ([ROOM, VIEW, COPY, PRODUCT], True),
        ([ROOM, VIEW, COPY, FENCE, PRODUCT], False),
        ([ROOM, VIEW, STORE, PRODUCT], True),
        ([ROOM, VIEW, STORE, PRODUCT.replace("%tile", "%other")], False),
        # What a turn copies is read in the next one.
        ([ROOM, VIEW, LOOP, PRODUCT, COPY, END], True),
        ([ROOM, VIEW, LOOP, FENCE, PRODUCT, COPY, END], False),
        ([ROOM, VIEW, COPY, FENCE, LOOP, PRODUCT, END], False),
        # A loop may have no turn.
        ([FROM_REGISTERS, LOOP, FENCE, END, PRODUCT], True),
        ([FROM_REGISTERS, IF, FENCE, END, PRODUCT], True),
        ([FROM_REGISTERS, IF, FENCE, ELSE, FENCE, END, PRODUCT], False),
        ([FROM_REGISTERS, IF, FENCE, ELSE, END, PRODUCT], True),
    ],
)
def test_fences(lines, found):
    text = ["module {", "tt.func public @kernel(%x: i32) {", *lines, "tt.return", "}", "}"]
    assert unfenced("\n".join(text)) == (["%out"] if found else [])
