"""The tables of the GPU round's report, each from its workers' rows."""

from typing import Any

from tttscale.bench import report

_GIB = 2**30
_NOTHING = "not run"

TIME_NOTE = (
    "\n\nbf16, 32 heads of 64, K = 16 (on a CPU: fp32, 2 heads of 16); medians. A step is one mini-batch. "
    "fla-*: TTT-Linear of fla-core, which takes rates per row only and ends before the output's norm; "
    "gated-delta: a linear recurrence, for scale; compiled: torch.compile of a mini-batch of the definition."
)


def error_table(rows: list[dict[str, Any]]) -> str:
    """The worst case of each learner, head dim and dtype."""
    worst: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = (row["inner"], row["dim"], row["dtype"])
        if key not in worst or not row["error"] <= worst[key]["error"]:
            worst[key] = row
    lines = [
        {
            "inner": row["inner"],
            "head dim": row["dim"],
            "dtype": row["dtype"],
            "worst relative error": f"{row['error']:.1e}",
            "of": row["of"],
            "at K, tokens": f"{row['K']}, {row['tokens']:,}",
            "limit": f"{row['limit']:.0e}",
            "ok": "yes" if row["ok"] else "NO",
        }
        for _, row in sorted(worst.items())
    ]
    return report.table(lines) if lines else _NOTHING


def time_table(rows: list[dict[str, Any]]) -> str:
    """Scans, each beside ours of the same shape."""
    lines = [
        {
            "who": row["who"],
            "inner": row["inner"],
            "batch": row["batch"],
            "tokens": f"{row['tokens']:,}",
            "forward us/step": f"{row['forward_us_per_step']:.2f}",
            "forward + backward us/step": f"{row['both_us_per_step']:.2f}",
            "against ours": _against_ours(row, rows),
            "peak GiB": f"{row['peak_bytes'] / _GIB:.2f}",
            "first call s": f"{row['first_call_seconds']:.0f}",
        }
        for row in rows
    ]
    return report.table(lines) if lines else _NOTHING


def kernel_table(rows: list[dict[str, Any]]) -> str:
    """Show every kernel of ours beside the others of its launch."""
    lines = [
        {
            "inner": row["inner"],
            "batch": row["batch"],
            "tokens": f"{row['tokens']:,}",
            "kernel": name.removesuffix("_kernel"),
            "us/step": f"{taken:.2f}",
        }
        for row in rows
        for name, taken in sorted(row["kernels"].items(), key=lambda item: -item[1])
    ]
    return report.table(lines) if lines else "no GPU: no times of kernels"


def _against_ours(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    same = ("inner", "batch", "tokens")
    own = [r for r in rows if r["who"] == "ours" and all(r[k] == row[k] for k in same)]
    return f"{row['both_ms'] / own[0]['both_ms']:.2f}x" if own else ""


def step_table(rows: list[dict[str, Any]]) -> str:
    """Whole optimizer steps by length."""
    lines = [
        {
            "model": row["preset"],
            "parameters": f"{row['parameters'] / 1e6:,.1f} M",
            "tokens": f"{row['tokens']:,}",
            "chunk": f"{row['chunk']:,}",
            "s/step": f"{row['step_seconds']:.2f}",
            "tokens/s": f"{row['tokens_per_second']:,.0f}",
            "s per million tokens": f"{1e6 / row['tokens_per_second']:.1f}",
            "peak GiB": f"{row['peak_bytes'] / _GIB:.1f}",
        }
        for row in rows
        if row["what"] == "step"
    ]
    return report.table(lines) if lines else _NOTHING


def profile_table(rows: list[dict[str, Any]]) -> str:
    """Show where the time of the shortest step of each model goes."""
    lines = [
        {
            "model": row["preset"],
            "tokens": f"{row['tokens']:,}",
            "s/step": f"{row['step_seconds']:.3f}",
            "sum of kernels, s": f"{row['kernel_seconds']:.3f}" if "kernel_seconds" in row else "",
            "busy": _percent(row.get("busy_share")),
            "in serial kernels": _percent(row.get("serial_share")),
            "waits of the host": str(row.get("host_waits", "")),
            "host, ms": f"{row['host_ms_of_a_block']:.2f}",
            "until done, ms": f"{row['ms_of_a_block']:.2f}",
        }
        for row in rows
        if row["what"] == "profile"
    ]
    return report.table(lines) + PROFILE_NOTE if lines else _NOTHING


PROFILE_NOTE = (
    "\n\n*busy*: sum of all kernels' times over the time of a step that was not profiled; the rest are gaps "
    "between launches. *host*, *until done*: one layer over one chunk, all three passes: what the host takes "
    "to ask for it, and until the device has done it; where they are equal, the host is the limit."
)


def ceiling_table(rows: list[dict[str, Any]]) -> str:
    """Show what the card can do at most, and what it reports of clocks and power."""
    lines = [
        {
            "what": row["what"],
            "shape": row["shape"],
            "measured": f"{row['value']:,.1f} {row['unit']}",
        }
        for row in rows
        if row["value"] is not None
    ]
    cards = [
        f"{row['what']}: "
        + (", ".join(f"{k} {v}" for k, v in row["card"].items()) or "no nvidia-smi")
        for row in rows
        if "card" in row
    ]
    return "\n\n".join(filter(None, (report.table(lines) if lines else _NOTHING, *cards)))


def rank_table(rows: list[dict[str, Any]]) -> str:
    """Two ranks beside one."""
    lines = [
        {
            "inner": row["inner"],
            "dtype": row["dtype"],
            "layout": row["layout"],
            "losses": "same bits" if row["same_losses"] else "DIFFERENT",
            "states": _same(row["different_states"]),
            "their gradients": _same(row["different_state_gradients"]),
            "gradients of parameters": "same bits"
            if row["same_gradients"]
            else f"{row['gradient_distance']:.1e} apart",
            "ok": "yes" if row["ok"] else "NO",
        }
        for row in rows
    ]
    return report.table(lines) if lines else _NOTHING


def _same(different: list[str]) -> str:
    return f"DIFFERENT: {'; '.join(different)}" if different else "same bits"


def stage_table(seconds: dict[str, float]) -> str:
    """How long each stage of the round took."""
    lines = [{"stage": name, "s": f"{taken:.0f}"} for name, taken in seconds.items()]
    return report.table(lines) if lines else _NOTHING


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"
