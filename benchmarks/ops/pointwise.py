"""The operators between the matrix products: call by call, compiled, and a library's; bytes moved, counted.

python -m benchmarks.ops.pointwise [--out benchmarks/pointwise_cpu]
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from tttscale.bench import report

SIZES = {  # tokens, width, feed-forward, vocabulary: those of 1.3B on a GPU
    "cuda": (8192, 2048, 5504, 32_000),
    "cpu": (512, 512, 1408, 8_000),
}
_COUNTED = ("ttt-linear-1.3b", "8192")
_MIB = 2**20
_KIB = 2**10


def bench_pointwise(out: Path) -> str:
    """Measure every way that this machine can run, count bytes; write a report; return the tables."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    whose = ("plain", "compiled", "liger") if device == "cuda" else ("plain", "compiled")
    rows = [
        row
        for who in whose
        for row in report.run_rows("benchmarks.ops.pointwise_worker", who, device)
    ]
    counted = report.run_worker(
        "benchmarks.static.traffic", *_COUNTED, env={"TRITON_INTERPRET": "0"}
    )
    text, bytes_text = pointwise_table(rows), traffic_table(counted)
    sections = [
        ("Time", text),
        ("What was measured", note(device)),
        ("Bytes of a block, counted", bytes_text + _TRAFFIC_NOTE),
    ]
    report.write(
        out,
        "The operators between the matrix products",
        sections,
        {"times": rows, "traffic": counted},
    )
    return f"{text}\n\n{bytes_text}"


def pointwise_table(rows: list[dict[str, Any]]) -> str:
    """Operators in order, each beside itself call by call."""
    plain = {row["operator"]: row["ms"] for row in rows if row["who"] == "plain"}
    lines = [
        {
            "operator": row["operator"],
            "who": row["who"],
            "forward + backward ms": f"{row['ms']:.2f}",
            "against plain": f"{row['ms'] / plain.get(row['operator'], float('nan')):.2f}x",
            "peak MiB": "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / _MIB:.0f}",
            "relative error": f"{row['error']:.0e}",
            "first call s": f"{row['first_call_seconds']:.1f}",
        }
        for row in sorted(rows, key=lambda row: row["operator"])
    ]
    return report.table(lines) if lines else "not run"


def note(device: str) -> str:
    """Explain the rows."""
    tokens, width, hidden, vocabulary = SIZES[device]
    return (
        f"{tokens:,} tokens, width {width:,}, feed-forward {hidden:,}, vocabulary {vocabulary:,}; "
        f"{'bf16 tokens, fp32 parameters and stream' if device == 'cuda' else 'fp32, one thread'}. "
        "plain: ops/pointwise.py call by call; compiled: the same through torch.compile, as the model runs "
        "it on a GPU; liger: liger-kernel, the loss with fp32 sums. Error: worst of output and gradients, "
        "against fp64, with a cotangent that differs from token to token."
    )


def traffic_table(rows: list[dict[str, Any]]) -> str:
    """Parts of a block by direction, call by call and compiled side by side."""
    lines = []
    for row in (row for row in rows if not row["compiled"]):
        key = ("direction", "part")
        (fast,) = (r for r in rows if r["compiled"] and all(r[k] == row[k] for k in key))
        lines.append(
            {
                "direction": row["direction"],
                "part": row["part"],
                "plain KiB/token": f"{row['bytes_per_token'] / _KIB:,.0f}",
                "calls": str(row["calls"]),
                "compiled KiB/token": f"{fast['bytes_per_token'] / _KIB:,.0f}",
                "operators and calls": str(fast["calls"]),
            }
        )
    return report.table(lines)


_TRAFFIC_NOTE = (
    f"\n\nOne block of {_COUNTED[0]} over {int(_COUNTED[1]):,} tokens in bf16, **counted and not measured** "
    "(`benchmarks.static.traffic`): what every call of torch reads and writes; a compiled operator counts "
    "with its arguments and results, a Triton kernel with its arguments, each once. *products*: of tokens; "
    "*scan*: Triton's kernels; *between*: all else that touches tokens; *parameters*: adding up their "
    "gradients. A training step goes forward twice (once to find the carries) and back once."
)


def main(words: list[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/pointwise_cpu"))
    print(bench_pointwise(parser.parse_args(words).out))


if __name__ == "__main__":
    main()
