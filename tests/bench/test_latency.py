"""The static model counts what it says: made-up code, one cycle per instruction."""

from tttscale.bench.latency import cycles_per_step, in_loops

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
