"""`tttscale bench scan`: our layer and scan beside the official implementation's, in one run."""

from pathlib import Path
from typing import Any

from tttscale.bench import report

_ROUNDS = 2


def bench_scan(out: Path, tokens: int, repeats: int, official: Path | None) -> str:
    """Measure linear and mlp at 2 and 12 heads of 64, one thread; write OUT.md and OUT.json.

    Every measurement has a process of its own; ours and the official one take turns, the best counts.

    Args:
        out: report path without suffix.
        tokens: sequence length.
        repeats: timed repetitions per process, after one untimed.
        official: ttt.py of ttt-lm-pytorch (with transformers installed), or None.

    Returns:
        The table.
    """
    who = ("ours", "official") if official else ("ours",)
    rows, data = [], []
    for kind in ("linear", "mlp"):
        for heads in (2, 12):
            best = {w: _best(w, kind, heads, tokens, repeats, official) for w in who}
            data.append({"kind": kind, "heads": heads, **best})
            rows.append(_row(kind, heads, best))
    text = report.table(rows)
    note = (
        f"T = {tokens}, B = 1, heads of 64, K = 16, fp32, one thread; forward + backward, best of "
        f"{repeats} in each of {_ROUNDS} processes that take turns. *scan*: learning rates and the "
        "inner learner, without projections. *layer*: the whole TTT layer; its projections are the "
        "same matrix products on both sides. *peak*: what the first forward + backward of the scan "
        "adds to the resident peak."
    )
    report.write(out, "TTT scan on a CPU", [("Result", text), ("What was measured", note)], data)
    return text


def _best(
    who: str, kind: str, heads: int, tokens: int, repeats: int, official: Path | None
) -> dict[str, Any]:
    path = [str(official)] if official else []
    rounds = [
        report.run_worker(
            "tttscale.bench.layer_worker", who, kind, str(heads), str(tokens), str(repeats), *path
        )
        for _ in range(_ROUNDS)
    ]
    return {key: min(r[key] for r in rounds) for key in rounds[0]}


def _row(kind: str, heads: int, best: dict[str, dict[str, Any]]) -> dict[str, str]:
    ours, official = best["ours"], best.get("official")
    row = {"inner": kind, "heads": str(heads)}
    for key, name in (("scan_seconds", "scan"), ("layer_seconds", "layer")):
        row[f"{name} ours s"] = f"{ours[key]:.3f}"
        if official:
            row[f"{name} official s"] = f"{official[key]:.3f}"
            row[f"{name} ratio"] = f"{official[key] / ours[key]:.1f}x"
    row["peak ours MiB"] = f"{ours['scan_peak_bytes'] / 2**20:.0f}"
    if official:
        row["peak official MiB"] = f"{official['scan_peak_bytes'] / 2**20:.0f}"
        row["peak ratio"] = f"{ours['scan_peak_bytes'] / official['scan_peak_bytes']:.2f}"
        difference = abs(ours["output_norm"] / official["output_norm"] - 1)
        row["output differs by"] = f"{difference:.0e}"
    return row
