"""The emulator notices what a GPU would pass over: programs with one fault, kernels without a barrier."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.ptx import tensor_core as tc
from benchmarks.ptx.launch import run_program
from benchmarks.ptx.memory import FaultError
from benchmarks.ptx.parse import parse
from benchmarks.ptx.spelling import UnknownSpellingError

HEAD = """
.visible .entry k(
	.param .u64 .ptr .global .align 1 k_param_0,
	.param .u64 .ptr .global .align 1 k_param_1
)
.reqntid 64
{
	.reg .b32 %r<9>;
	ld.param.b64 %rd1, [k_param_0];
	ld.param.b64 %rd2, [k_param_1];
	mov.u32 %r1, %tid.x;
	mul.wide.u32 %rd3, %r1, 4;
	add.s64 %rd4, %rd1, %rd3;
	add.s64 %rd5, %rd2, %rd3;
	shl.b32 %r2, %r1, 2;
	xor.b32 %r3, %r2, 128;  // the same lane of the other warp
"""
BARRIER = "bar.sync 0;"


def run(body, count=64, grid=(1, 1, 1)):
    """One kernel over `count` numbers in and out."""
    given = torch.arange(count, dtype=torch.int32), torch.zeros(count, dtype=torch.int32)
    run_program(parse(HEAD + body + "\n\tret;\n}\n"), 1024, list(given), grid)
    return given[1]


EXCHANGE = """
	ld.global.b32 %r4, [%rd4];
	st.shared.b32 [%r2], %r4;
	{barrier}
	ld.shared.b32 %r5, [%r3];
	{second}
	st.global.b32 [%rd5], %r5;
"""


def test_an_exchange_between_warps():
    out = run(EXCHANGE.format(barrier=BARRIER, second=""))
    assert torch.equal(out, torch.arange(64).roll(32).int())


@pytest.mark.parametrize("space", ["shared", "shared::cta"])
def test_shared_memory_by_either_name(space):
    """Of release 3.8 on, Triton's stores say which block's shared memory they mean."""
    body = EXCHANGE.format(barrier=BARRIER, second="").replace(".shared", f".{space}")
    assert torch.equal(run(body), torch.arange(64).roll(32).int())
    with pytest.raises(FaultError, match="shared: read after write"):
        run(EXCHANGE.format(barrier="", second="").replace(".shared", f".{space}"))


UNKNOWN = r"""
st.shared::cluster.b32 [%r2], %r1;
st.b32 [%r2], %r1;
st.local.b32 [%r2], %r1;
ld.const.b32 %r4, [%rd4];
ld.weak.global.b32 %r4, [%rd4];
ld.global.nc.b32 %r4, [%rd4];
ld.shared.relaxed.cta.b32 %r4, [%r2];
ld.shared.b8 %r4, [%r2];
atom.shared.add.u32 %r4, [%r2], 1;
bar.red.popc.u32 %r4, 0, %p1;
barrier.cluster.arrive;
fence.proxy.async.global;
cp.async.wait_all;
cp.async.bulk.shared::cta.global [ %r2 + 0 ], [ %rd4 + 0 ], 16, [ %r3 + 0 ];
add.rz.f32 %r4, %r1, %r1;
add.sat.s32 %r4, %r1, %r1;
add.f64 %rd6, %rd3, %rd3;
add.bf16x2 %r4, %r1, %r1;
fma.rn.ftz.f32 %r4, %r1, %r1, %r1;
min.f32 %r4, %r1, %r1;
mul.hi.u32 %r4, %r1, %r1;
mad.hi.s32 %r4, %r1, %r1, %r1;
div.s64 %rd6, %rd3, %rd3;
ex2.approx.f16 %rs1, %rs1;
setp.ne.f32 %p1, %r1, %r1;
setp.ltu.f32 %p1, %r1, %r1;
setp.lt.and.s32 %p1, %r1, 3, %p2;
shl.s32 %r4, %r1, 3;
shf.l.wrap.b32 %r4, %r1, %r1, 3;
cvt.rni.s32.f32 %r4, %r1;
cvt.rz.bf16x2.f32 %r4, %r1, %r1;
cvt.sat.u16.u32 %rs1, %r1;
shfl.sync.down.b32 %r4, %r1, 1, 31, -1;
shfl.sync.bfly.b32 %r4|%p1, %r1, 1, 31, -1;
redux.sync.add.s32 %r4, %r1, -1;
mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r4}, {%r4}, {%r4}, {%r4};
mov.b32 %r4, other_array;
mov.b32 %r4, %r1 + 4;
mov.b64 %rd6, 0d3FF0000000000000;
{ call (%r4), other, (%r1); }
add.s32 %r4, %r1,
.shared .align 4 .b8 mine[64];
.local .b8 stack[16];
.pragma "another";
""".strip().splitlines()


@pytest.mark.parametrize("body", UNKNOWN)
def test_what_the_emulator_does_not_know_is_an_error_and_no_guess(body):
    with pytest.raises(UnknownSpellingError, match="not known to benchmarks/ptx"):
        run(body)


def test_a_second_kernel_is_no_part_of_the_first():
    with pytest.raises(UnknownSpellingError, match="a second kernel"):
        parse(HEAD + "ret;\n}\n" + HEAD + "ret;\n}\n")


FAULTS = {
    "read after write": EXCHANGE.format(barrier="", second=""),
    "write after read": EXCHANGE.format(barrier=BARRIER, second="st.shared.b32 [%r2], %r5;"),
    "write after write": "st.shared.b32 [%r2], %r1;\n st.shared.b32 [%r3], %r1;",
    "read before anything was written": "ld.shared.b32 %r4, [%r2];",
    "shared: out of bounds": "st.shared.b32 [%r2+1000], %r1;",
    "outside of all tensors": "st.global.b32 [%rd5+256], %r1;",
    "misaligned access of 4 bytes": "st.global.b32 [%rd5+2], %r1;",
    "several threads write different values": "mov.b32 %r4, 0; st.shared.b32 [%r4], %r1;",
    "part ways": "setp.lt.u32 %p1, %r1, 32;\n @%p1 bra $L1;\n$L1:",
    "a copy is on its way": """
        cp.async.ca.shared.global [ %r2 + 0 ], [ %rd4 + 0 ], 0x4;
        cp.async.commit_group;
        ld.shared.b32 %r5, [%r2];
    """,
    "read after write by different warps": """
        cp.async.ca.shared.global [ %r2 + 0 ], [ %rd4 + 0 ], 0x4;
        cp.async.commit_group;
        cp.async.wait_group 0;
        ld.shared.b32 %r5, [%r3];
    """,
}


@pytest.mark.parametrize("words", FAULTS)
def test_faults_are_noticed_and_named(words):
    with pytest.raises(FaultError, match=words):
        run(FAULTS[words])


def test_blocks_may_not_meet():
    body = "mov.u32 %r4, %ctaid.x;\n st.global.b32 [%rd5], %r4;"
    run(body)
    with pytest.raises(FaultError, match="write after write by different blocks"):
        run(body, grid=(2, 1, 1))


def test_the_same_value_twice_harms_nobody():
    assert (run("mov.b32 %r4, 7; st.global.b32 [%rd2], %r4;")[0] == 7).all()


def test_copies_that_are_waited_for():
    out = run("""
        cp.async.ca.shared.global [ %r2 + 0 ], [ %rd4 + 0 ], 0x4;
        cp.async.commit_group;
        cp.async.wait_group 0;
        bar.sync 0;
        ld.shared.b32 %r5, [%r3];
        st.global.b32 [%rd5], %r5;
    """)
    assert torch.equal(out, torch.arange(64).roll(32).int())


# ---- arithmetic and fragments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("bfe.u32 %r5, %r1, 2, 3;", lambda t: t >> 2 & 7),
        ("bfe.s32 %r5, %r1, 1, 1;", lambda t: -(t >> 1 & 1)),
        ("prmt.b32 %r5, %r1, %r2, 4180;", lambda t: 4 * t | t << 16),
        ("prmt.b32 %r5, %r1, %r2, 0x1054U;", lambda t: 4 * t | t << 16),
        ("mad.lo.s32 %r5, %r1, -3, %r2;", lambda t: t),
        ("shfl.sync.bfly.b32 %r5, %r1, 4, 31, -1;", lambda t: t ^ 4),
        ("sub.s32 %r4, %r1, 40; shr.s32 %r5, %r4, 1;", lambda t: (t - 40) >> 1),
        ("setp.lt.s32 %p1, %r1, 9; selp.b32 %r5, %r2, -1, %p1;", lambda t: np.where(t < 9, 4 * t, -1)),
        ("cvt.rn.f32.u32 %r4, %r1; fma.rn.f32 %r5, %r4, %r4, %r4;",
         lambda t: (t * t + t).astype(np.float32).view(np.int32)),
        ("setp.lt.s32 %p1, %r1, 64; @!%p1 ret; mov.b32 %r5, %r2;", lambda t: 4 * t),
        ("mov.b32 %r4, 1; ex2.approx.ftz.f32 %r5, %r4;", lambda t: t * 0 + 0x3F800000),
        ("mov.b32 %r4, 0f7F000000; div.approx.f32 %r5, %r4, %r4;", lambda t: t * 0),  # of 2^127
        ("mov.b32 %r4, 0f40000000; div.approx.f32 %r5, %r4, %r4;", lambda t: t * 0 + 0x3F800000),
        ("rsqrt.approx.ftz.f32 %r5, 1;", lambda t: t * 0 + 0x7F800000),  # of 1e-45, a zero
        ("mov.b32 {%rs1, %rs2}, %r2; mov.b32 %r5, {%rs2, %rs1};", lambda t: 4 * t << 16),
    ],
)  # fmt: skip
def test_arithmetic(body, wanted):
    out = run(body + "\n st.global.b32 [%rd5], %r5;")
    assert (out.numpy() == wanted(np.arange(64, dtype=np.int32))).all()


def test_bf16_is_rounded_to_nearest_even():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    ours = tc.to_bf16(x.numpy())
    assert (ours.view(np.int16) == x.bfloat16().view(torch.int16).numpy()).all()
    assert (tc.from_bf16(ours) == x.bfloat16().float().numpy()).all()


def test_fragments_are_permutations():
    """Every element of a tile is held once, and goes back where it came from."""
    values = np.random.default_rng(0).standard_normal((2, 16, 24)).astype(np.float32)
    registers = tc.registers_of(values)
    assert (tc.accumulators(registers) == values).all()
    words = [np.arange(64 * i, 64 * (i + 1), dtype=np.uint32) for i in range(4)]
    a = tc.fragment_a([tc.to_bf16(w.astype(np.float32)).astype(np.uint32) for w in words])
    assert np.count_nonzero(a[:, :, ::2]) >= 2 * 128 - 1  # the low half of every register
    assert not a[:, :, 1::2].any()
    matrices = tc.from_lanes(words, transposed=True)
    assert all((x == y).all() for x, y in zip(tc.to_lanes(matrices, True), words, strict=True))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_described_operands_do_not_overlap(mode, transposed):
    descriptor = 1024 >> 4 | (2048 >> 4) << 16 | (16384 >> 4) << 32 | mode << 62
    at = tc.described_places(descriptor, 64, transposed)
    assert len(np.unique(at)) == at.size
    assert at.min() >= 512


# ---- whole kernels -----------------------------------------------------------------------------------

WITHOUT = """
import sys
import benchmarks.ptx.launch as launch
from benchmarks.ptx.__main__ import run
from benchmarks.ptx.memory import FaultError
from benchmarks.ptx.parse import parse

def without(text):
    program = parse(text)
    for at, instruction in enumerate(program.instructions):
        if instruction.operation.startswith(dropped):
            program.instructions[at] = nothing
    return program

nothing = parse(".visible .entry k(\\n.reqntid 32\\n mov.u32 %nothing, %tid.x;").instructions[0]
launch.parse = without
for dropped in sys.argv[1:]:
    try:
        run("linear", 64, 16, "bf16", 90, 40, False)
        print("no fault")
    except FaultError as fault:
        print(fault)
"""


def test_kernels_are_faulty_without():
    """What each instruction is for is noticed when it is dropped from every kernel of a scan."""
    words = {
        "bar.sync": "different warps without a barrier",
        "fence.proxy.async": "without a fence",
        "cp.async.wait_group": "a copy is on its way",
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *words],
        env={**os.environ, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    faults = done.stdout.strip().splitlines()
    assert len(faults) == len(words)
    for said, word in zip(faults, words.values(), strict=True):
        assert word in said
