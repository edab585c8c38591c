"""`tttscale bench around`: RMSNorm, SwiGLU and cross-entropy, ours beside torch.compile and a library."""

from pathlib import Path
from typing import Any

import torch

from tttscale.bench import report

SIZES = {  # tokens, width, feed-forward, vocabulary: those of 1.3B on a GPU
    "cuda": (8192, 2048, 5504, 32_000),
    "cpu": (512, 512, 1408, 8_000),
}
_MIB = 2**20


def bench_around(out: Path) -> str:
    """Measure every way that this machine can run; write OUT.md and OUT.json; the table."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    whose = ("ours", "compiled", "liger") if device == "cuda" else ("ours", "compiled")
    rows = [
        row
        for who in whose
        for row in report.run_worker("tttscale.bench.around_worker", who, device)
    ]
    text = around_table(rows)
    sections = [("Result", text), ("What was measured", note(device))]
    report.write(out, "What surrounds the scan", sections, rows)
    return text


def around_table(rows: list[dict[str, Any]]) -> str:
    """Operators in order, each beside ours."""
    own = {row["operator"]: row["ms"] for row in rows if row["who"] == "ours"}
    lines = [
        {
            "operator": row["operator"],
            "who": row["who"],
            "forward + backward ms": f"{row['ms']:.2f}",
            "against ours": f"{row['ms'] / own.get(row['operator'], float('nan')):.2f}x",
            "peak MiB": "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / _MIB:.0f}",
            "relative error": f"{row['error']:.0e}",
            "first call s": f"{row['first_call_seconds']:.1f}",
        }
        for row in sorted(rows, key=lambda row: row["operator"])
    ]
    return report.table(lines) if lines else "nothing ran"


def note(device: str) -> str:
    """What the rows are."""
    tokens, width, hidden, vocabulary = SIZES[device]
    return (
        f"{tokens:,} tokens, width {width:,}, feed-forward {hidden:,}, vocabulary {vocabulary:,}; "
        f"{'bf16 tokens, fp32 parameters' if device == 'cuda' else 'fp32, one thread'}. ours: what "
        "the model runs; compiled: torch.compile of plain torch, the loss with all logits at once; "
        "liger: liger-kernel, the loss with fp32 sums. Error: worst of output and gradients, "
        "against fp64, with a cotangent that differs from token to token."
    )
