"""Find the fastest launches on this GPU: a table to edit its file in kernels/triton_scan/launches/ by.

Run as `python -m benchmarks.gpu.tune OUT [SECONDS]`. All kernels of the paper's shape, each under other
warps, stages and columns; first compiled side by side, then timed one by one. Nothing is chosen here:
launches stay a fixed table, so that equal inputs give equal bits.
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.machine import card
from benchmarks.gpu.round import NO_GPU, Log, Round, from_command_line
from tttscale.bench import report

KERNELS = ("advance_backward", "advance", "gradients", "readout_backward", "readout", "targets")
"""Serial kernels first."""
_BEST = 5
_SECONDS = 540.0


def main(out: Path, seconds: float = _SECONDS) -> int:
    """Compile, time, write the report; exit code 1 if no launch could be timed."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    work = Round(device, seconds, Log(report.beside(out, ".jsonl")))
    cases = [(kind, kernel) for kind in ("linear", "mlp") for kernel in KERNELS]
    if device == "cpu":
        cases = [("linear", "advance")]

    def worker(case: tuple[str, str], tokens: str, part: Round) -> list[dict[str, Any]]:
        return part.worker("gpu.tune_worker", *case, device, tokens)

    compiling = work.until(0.6)
    work.together([lambda case=case: worker(case, "64", compiling) for case in cases])
    rows: list[dict[str, Any]] = []
    for case in cases:
        rows += worker(case, "16384" if device == "cuda" else "64", work)
        _write(out, device, rows, work.missing)
    print(report.beside(out, ".md").read_text())
    return int(not rows)


def _write(out: Path, device: str, rows: list[dict[str, Any]], missing: list[str]) -> None:
    name = torch.cuda.get_device_name() if device == "cuda" else NO_GPU
    wrong = [row for row in rows if row["us_per_step"] is not None and not row["right"]]
    facts = "; ".join(f"{key} {value}" for key, value in card().items())
    sections = [
        ("Device", "\n\n".join(filter(None, (name, facts)))),
        ("Fastest launches", launch_table(rows)),
        ("Launches with other results", report.table(_lines(wrong)) if wrong else "none"),
        ("Launches that cannot be had", f"{sum('why' in row for row in rows)}; why: see the JSON"),
        ("Not measured", "\n".join(f"- {line}" for line in missing) or "none"),
    ]
    report.write(out, "Launches by time", sections, rows, command="bash benchmarks/gpu/tune.sh")


_NOTE = (
    f"\n\nbf16, 32 heads of 64, K = 16, 16,384 tokens; the launch of the table (*now*) and the {_BEST} "
    "fastest of each kernel whose results agree with it, microseconds per mini-batch of the kernel alone."
)


def launch_table(rows: list[dict[str, Any]]) -> str:
    """The launch of the table and the fastest others of each kernel, those with right results."""
    found = [row for row in rows if row["us_per_step"] is not None and row["right"]]
    lines = []
    for case in dict.fromkeys((row["inner"], row["kernel"]) for row in found):
        same = [row for row in found if (row["inner"], row["kernel"]) == case]
        ranked = sorted(same, key=lambda row: row["us_per_step"])
        kept = [row for row in ranked if row["now"] or row in ranked[:_BEST]]
        lines += _lines(kept)
    return (report.table(lines) if lines else "not run") + _NOTE


def _lines(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "inner": row["inner"],
            "kernel": row["kernel"],
            "warps": row["num_warps"],
            "stages": row["num_stages"],
            "columns": row["inner_columns"],
            "resident": "yes" if row["resident"] else "",
            "us/step": f"{row['us_per_step']:.3f}",
            "difference": f"{row['difference']:.0e}",
            "now": "now" if row["now"] else "",
        }
        for row in rows
    ]


if __name__ == "__main__":
    from_command_line(main, _SECONDS)
