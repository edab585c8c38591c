"""The serial kernels of fla-core's TTT-Linear compiled like ours, for the predictions beside them.

Run as `python -m benchmarks.static.compiled_peer CAPABILITY` where fla can be imported (fla-core 0.6.0),
without TRITON_INTERPRET. Head dim 64, K 16, bf16, all of its autotuner's warps. Prints one JSON list.
"""

import importlib
import json
import sys
from typing import Any

from triton.compiler import ASTSource
from triton.runtime import JITFunction

from benchmarks.static.compiled import resources

_SHAPE = {"H": 32, "K": 64, "V": 64, "BT": 16, "BK": 64, "BV": 64}
_PLAIN = {"IS_VARLEN": False, "cu_seqlens": None, "chunk_offsets": None, "chunk_indices": None}
_START = {"USE_INITIAL_STATE": True, "USE_INITIAL_STATE_B": True}
_END = {"USE_FINAL_STATE_GRADIENT": True, "USE_FINAL_STATE_GRADIENT_B": True}
_FORWARD = {"STORE_FINAL_STATE": True}
_CHUNK = "fla.ops.ttt.chunk"
_FUSED = "fla.ops.ttt.fused_chunk"
SERIAL: list[tuple[str, str, dict[str, Any], tuple[int, ...]]] = [
    # module, kernel, compile-time arguments, warps that its autotuner tries on Hopper
    (_CHUNK, "chunk_ttt_linear_fwd_kernel_h", {**_START, **_FORWARD}, (1, 2, 4, 8)),
    (_CHUNK, "chunk_ttt_linear_bwd_kernel_h", {**_START}, (1, 2, 4, 8)),
    (_CHUNK, "chunk_ttt_linear_bwd_kernel_norm", {**_START, **_END}, (2, 4, 8)),
    (_FUSED, "fused_chunk_ttt_linear_fwd_kernel", {**_START, **_FORWARD}, (1, 2, 4)),
    (_FUSED, "fused_chunk_ttt_linear_bwd_kernel_h", {**_START}, (1, 2, 4)),
    (_FUSED, "fused_chunk_ttt_linear_bwd_kernel_dh", {**_START, **_END}, (1, 2)),
]
_FP32 = {"h0", "hb0", "ht", "hbt", "dht", "dhbt", "dh0", "dhb0", "r", "dh", "dhb"}
_SCALARS = {"scale": "fp32", "eps": "fp32", "T": "i32"}


def source(kernel: Any, constants: dict[str, Any]) -> ASTSource:
    """The kernel with bf16 tokens and fp32 states, as its host code launches it."""
    names = kernel.arg_names
    constants = {name: value for name, value in constants.items() if name in names}
    signature, attributes = {}, {}
    for index, name in enumerate(names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in _SCALARS:
            signature[name] = _SCALARS[name]
        else:
            signature[name] = "*fp32" if name in _FP32 else "*bf16"
            attributes[(index,)] = [["tt.divisibility", 16]]
    by_index = {(names.index(name),): value for name, value in constants.items()}
    return ASTSource(kernel, signature, by_index, attributes)


def main(capability: int) -> None:
    """Compile everything; for each kernel the warps with the fewest predicted cycles."""
    rows = []
    for module, name, constants, warps in SERIAL:
        kernel = getattr(importlib.import_module(module), name)
        while not isinstance(kernel, JITFunction):
            kernel = kernel.fn
        built = source(kernel, {**_SHAPE, **_PLAIN, **constants})
        print(f"compiling {name}", file=sys.stderr)
        tried = [
            resources(built, {"num_warps": count, "num_stages": 3}, capability) for count in warps
        ]
        best = min(tried, key=lambda row: row["cycles_per_step"] or float("inf"))
        rows.append({"kernel": name, **best})
    print(json.dumps(rows))


if __name__ == "__main__":
    main(int(sys.argv[1]))
