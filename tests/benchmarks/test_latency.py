"""The static model counts what it says: made-up code, one cycle per instruction."""

import pytest

from benchmarks.static.latency import cycles_in_all, cycles_per_step, in_loops, issued
from benchmarks.static.products import products

PLAIN = (1 | 7 << 5 | 7 << 8) << 41  # stall for one cycle, no scoreboards


def assembled(*texts):
    """As cuobjdump prints it; a text may name the index that it branches to as {n}."""
    lines = []
    for i, text in enumerate(texts):
        target = text.replace("{", "0x{").format(*(f"{16 * n:x}" for n in range(len(texts))))
        lines.append(f"        /*{16 * i:04x}*/                   {target} ;   /* 0x{0:016x} */")
        lines.append(f"                                            /* 0x{PLAIN:016x} */")
    return "\n".join([*lines, ""])


CODE = assembled(
    "MOV R1, R2",
    "HMMA.16816.F32 R4, R8, R12, R4",  # the main loop begins: 1
    "@P0 BRA {6}",
    "LDL R3, [R1]",
    "FADD R3, R3, R3",
    "STL [R1], R3",
    "FMUL R3, R3, R3",  # a loop inside it: 6, 7
    "@P1 BRA {6}",
    "@P2 BRA {1}",
    "LDL R3, [R1]",
    "EXIT",
)


def test_a_turn_of_the_main_loop():
    assert cycles_per_step(CODE) == 8
    assert cycles_per_step(CODE, tiles=3) == 8 + 2 * 2


def test_conditional_parts_count_by_their_share():
    assert cycles_per_step(CODE, block=4) == 8 / 4 + 5 * 3 / 4


def test_of_an_if_with_two_parts_the_longer_is_the_rare_one():
    code = assembled(
        "HMMA.16816.F32 R4, R8, R12, R4",  # the main loop begins: 0
        "@P0 BRA {6}",
        "FADD R3, R3, R3",  # the first part: 2 to 5
        "FADD R3, R3, R3",
        "FADD R3, R3, R3",
        "BRA {8}",
        "FMUL R3, R3, R3",  # the second: 6, 7
        "FMUL R3, R3, R3",
        "@P2 BRA {0}",
        "EXIT",
    )
    assert cycles_per_step(code, block=4) == (3 + 4) / 4 + (3 + 2) * 3 / 4
    swapped = code.replace("FMUL", "FADD")
    assert cycles_per_step(swapped, block=1) == 3 + 4


def test_local_memory_inside_and_outside_loops():
    assert in_loops(CODE, ("LDL", "STL")) == 2
    assert cycles_per_step(assembled("MOV R1, R2", "EXIT")) is None


def test_products_of_an_inner_loop_alone_count_as_the_main_loops():
    code = assembled(
        "MOV R1, R2",  # the main loop begins: 0
        "HMMA.16816.F32 R4, R8, R12, R4",  # the loop over tiles: 1
        "@P1 BRA {1}",
        "FADD R3, R3, R3",
        "@P2 BRA {0}",
        "EXIT",
    )
    assert cycles_per_step(code, tiles=3) == 5 + 2 * 2


def test_a_whole_program():
    code = assembled(
        "MOV R1, R2",
        "FADD R3, R3, R3",  # the loop: 1, 2
        "@P1 BRA {1}",
        "EXIT",
        "NOP",
    )
    assert issued(code) == 4
    assert issued(code, turns=5) == 2 + 5 * 2
    assert cycles_in_all(code, turns=5) == 2 + 5 * 2


def test_each_outermost_loop_has_its_own_turns():
    code = assembled(
        "MOV R1, R2",  # a loop around another: 0 to 2
        "FADD R3, R3, R3",
        "@P1 BRA {1}",
        "@P1 BRA {0}",
        "FADD R4, R4, R4",  # the second loop: 4, 5
        "@P1 BRA {4}",
        "EXIT",
    )
    assert issued(code, turns=(3, 5)) == 3 * 4 + 5 * 2 + 1
    assert issued(code, turns=(3, 1, 5)) == issued(code, turns=(3, 5))  # one was written out
    with pytest.raises(ValueError, match="argument"):
        issued(code, turns=(3,))


@pytest.mark.parametrize(
    ("layout", "shape", "warps"),
    [
        ("versionMajor = 3, versionMinor = 0, warpsPerCTA = [4, 1], instrShape = [16, 64, 16]", "64x64", 1),
        ("versionMajor = 3, versionMinor = 0, warpsPerCTA = [8, 1], instrShape = [16, 32, 16]", "64x64", 2),
        ("versionMajor = 3, versionMinor = 0, warpsPerCTA = [4, 2], instrShape = [16, 32, 16]", "64x64", 1),
        ("versionMajor = 2, versionMinor = 0, warpsPerCTA = [1, 8], instrShape = [16, 8]", "16x32", 2),
    ],
)  # fmt: skip
def test_by_how_many_warps_a_product_is_done(layout, shape, warps):
    dialect = (
        f"#mma = #ttg.nvidia_mma<{{{layout}}}>\n"
        f"%a = tt.dot %x, %y, %z : tensor<64x16xbf16> -> tensor<{shape}xf32, #mma>\n"
        f"%b = ttng.warp_group_dot %x, %y, %a : !ttg.memdesc<64x16xbf16> -> tensor<{shape}xf32, #mma>\n"
        "%c = tt.dot %x, %y, %z : tensor<64x16xf32> -> tensor<64x64xf32, #blocked>\n"
    )
    assert products(dialect) == [warps, warps]
