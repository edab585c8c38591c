"""The GPU round: every kernel configuration against fp64, then times with peers, then whole steps.

Run as `python -m tttscale.bench.gpu_check OUT [SECONDS]`. Ends within SECONDS (540): what no longer fits is
named in the report instead of measured. Without a GPU the same code runs on the CPU, interpreted and small,
and the report says so.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tttscale.bench import report
from tttscale.bench.around import around_table, note
from tttscale.bench.documents import NOTE as DOCUMENTS_NOTE
from tttscale.bench.documents import documents_table

_GIB = 2**30
_DIMS = {"mlp": (128, 96, 64, 32, 16), "linear": (128, 96, 64, 32, 16)}
"""Head dims that have kernels, those that compile longest first."""
_TAIL_LINES = 3
FAILED = "FAILED"
"""First word on memory accesses that were found to be wrong, or a check of them that broke down."""
_PEERS = [(who, "linear") for who in ("fla-chunk", "gated-delta", "compiled", "fla-fused")]


class Round:
    """Workers under one deadline, each in a process of its own."""

    def __init__(self, device: str, seconds: float) -> None:
        self.device, self.ends = device, time.monotonic() + seconds
        self.env = {**os.environ}
        if device == "cpu":
            self.env |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        self.missing: list[str] = []
        """What was not measured, and why."""
        self.late = 0
        """Workers of this part of the round that the deadline stopped or did not let begin."""

    def until(self, share: float) -> "Round":
        """The same round with a nearer deadline: `share` of the time that is left."""
        part = Round(self.device, share * (self.ends - time.monotonic()))
        part.missing = self.missing
        return part

    def worker(self, module: str, *words: str, prefix: Sequence[str] = ()) -> Any:
        """The worker's JSON, or None with the reason noted."""
        name = " ".join((module, *words))
        left = self.ends - time.monotonic()
        if left < 1:
            self.late += 1
            self.missing.append(f"{name}: no time left")
            return None
        command = [*prefix, sys.executable, "-m", f"tttscale.bench.{module}", *words]
        try:
            done = subprocess.run(
                command, env=self.env, capture_output=True, text=True, timeout=left, check=True
            )
        except subprocess.TimeoutExpired:
            self.late += 1
            self.missing.append(f"{name}: stopped at the deadline")
        except subprocess.CalledProcessError as error:
            tail = " / ".join(error.stderr.strip().splitlines()[-_TAIL_LINES:])
            self.missing.append(f"{name}: ended with {error.returncode}: {tail}")
        else:
            return json.loads(done.stdout.strip().splitlines()[-1])
        return None

    def together(self, calls: Sequence[Callable[[], Any]], at_once: int) -> list[Any]:
        """Results of calls made side by side, those that failed left out."""
        with ThreadPoolExecutor(at_once) as pool:
            done = list(pool.map(lambda call: call(), calls))
        return [result for result in done if result is not None]


def check_errors(work: Round) -> list[dict[str, Any]]:
    """Every configuration, side by side: compiling takes longer than running."""
    dims = _DIMS if work.device == "cuda" else dict.fromkeys(_DIMS, (16,))
    calls = [
        lambda words=(kind, str(dim), dtype, work.device): work.worker("gpu_errors", *words)
        for kind in dims
        for dim in dims[kind]
        for dtype in ("bf16", "fp32")
    ]
    return [row for rows in work.together(calls, os.cpu_count() or 1) for row in rows]


def check_memory_accesses(work: Round) -> str:
    """compute-sanitizer over one small configuration of each learner; what came of it, in words."""
    tool = shutil.which("compute-sanitizer")
    if work.device == "cpu" or tool is None:
        return "not run: no GPU or no compute-sanitizer here"
    prefix, part = (tool, "--error-exitcode", "9"), work.until(1.0)
    found = [
        part.worker("gpu_errors", kind, "16", "bf16", "cuda", prefix=prefix)
        for kind in ("linear", "mlp")
    ]
    if None not in found:
        return "no error found"
    # Too little time says nothing of the kernels.
    return f"{FAILED if found.count(None) > part.late else 'not finished'}, see below"


def time_scans(work: Round, whose: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Scans of ours or of peers, each alone on the device; rows that failed are noted and left out."""
    shapes = ("1x8192", "4x8192", "1x32768", "4x32768", "1x131072")
    rows = []
    for who, kind in whose:
        asked = shapes[:1] if who == "compiled" else shapes
        asked = ("1x64",) if work.device == "cpu" else asked
        rows += work.worker("gpu_time", who, kind, work.device, *asked) or []
    work.missing += [
        f"{row['who']} {row['inner']} {row['error']}" for row in rows if "error" in row
    ]
    return [row for row in rows if "error" not in row]


def time_steps(work: Round, preset: str) -> list[dict[str, Any]]:
    """A 1.3B model through the chunked sweeps, at three (TTT-MLP: two) lengths."""
    if work.device == "cpu":
        return work.worker("gpu_step", preset, work.device, "64", "256") or []
    most = 1 if preset.endswith("+plain") else 2 if "mlp" in preset else 3
    lengths = ("32768", "131072", "1048576")[:most]
    chunk = "4096" if "mlp" in preset else "8192"
    return work.worker("gpu_step", preset, work.device, chunk, *lengths) or []


def time_surroundings(work: Round) -> list[dict[str, Any]]:
    """What lies between the products: call by call, compiled, and a library's."""
    whose = ("plain", "compiled", "liger") if work.device == "cuda" else ("plain",)
    found = [work.worker("around_worker", who, work.device) for who in whose]
    return [row for rows in found for row in rows or []]


def time_documents(work: Round) -> list[dict[str, Any]]:
    """A chunk of packed documents, side by side and one after the other."""
    words = ("8192", "32") if work.device == "cuda" else ("512", "1")
    return work.worker("documents_worker", work.device, *words) or []


@dataclass
class Findings:
    """What the round has found so far."""

    device: str
    errors: list[dict[str, Any]] = field(default_factory=list)
    scans: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    around: list[dict[str, Any]] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)
    sanitizer: str = "not reached"
    missing: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[dict[str, Any]]:
        """Results whose error is too large or not a number, that change, or that made the host wait."""
        return [row for row in self.errors if not row["ok"]]

    def write(self, out: Path) -> None:
        """The report as it stands, so that nothing is lost if the round is cut short."""
        twice = sum(row["same_bits"] for row in self.errors)
        checked = (
            f"{len(self.errors)} checked, {len(self.wrong)} wrong. A second run had the same bits in "
            f"{twice}; {sum(row['host_waits'] for row in self.errors)} made the host wait for the device."
        )
        around_note = note("cpu" if self.device == NO_GPU else "cuda")
        sections = [
            ("Device", self.device),
            ("Against fp64", f"{checked}\n\n{_error_table(self.errors)}"),
            ("compute-sanitizer", self.sanitizer),
            ("Time of a scan", _time_table(self.scans) + _TIME_NOTE),
            ("Time of its kernels", _kernel_table(self.scans)),
            ("Time of an optimizer step", _step_table(self.steps)),
            ("Time of what surrounds it", f"{around_table(self.around)}\n\n{around_note}"),
            ("Documents in a chunk", f"{documents_table(self.documents)}\n\n{DOCUMENTS_NOTE}"),
            ("Not measured", "\n".join(f"- {line}" for line in self.missing) or "nothing"),
        ]
        report.write(out, "GPU check", sections, asdict(self), command="bash launch/gpu_check.sh")


NO_GPU = "no GPU found: the CPU, interpreted, small shapes; times say nothing"


def main(out: Path, seconds: float = 540.0) -> int:
    """Check, measure, write the report.

    Returns:
        Exit code: 1 if a result is wrong, a configuration was not checked or compute-sanitizer failed. What
        there was no time to measure is named in the report and changes nothing.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    work = Round(device, seconds)
    found = Findings(NO_GPU, missing=work.missing)
    if device == "cuda":
        found.device = f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    found.errors = check_errors(work.until(0.5))
    unchecked = list(work.missing)
    found.write(out)
    for stage in _stages(work, found):
        stage()
        found.write(out)
    print(report.beside(out, ".md").read_text())
    failed = found.wrong or unchecked or found.sanitizer.startswith(FAILED)
    return int(bool(failed or not found.errors))


def _stages(work: Round, found: Findings) -> list[Callable[[], Any]]:
    """What is measured, in the order in which it would be missed."""

    def scans(*whose: tuple[str, str]) -> Callable[[], None]:
        return lambda: found.scans.extend(time_scans(work, whose))

    def steps(preset: str) -> Callable[[], None]:
        return lambda: found.steps.extend(time_steps(work, preset))

    cuda = work.device == "cuda"
    return [
        scans(("ours", "linear"), ("ours", "mlp")),
        steps("ttt-linear-1.3b"),
        scans(*(_PEERS if cuda else [("ours-torch", "linear")])),
        steps("ttt-mlp-1.3b"),
        *([steps("ttt-linear-1.3b+plain")] if cuda else []),
        lambda: found.documents.extend(time_documents(work)),
        lambda: found.around.extend(time_surroundings(work)),
        lambda: setattr(found, "sanitizer", check_memory_accesses(work)),
    ]


_TIME_NOTE = (
    "\n\nbf16, 32 heads of 64, K = 16 (on a CPU: fp32, 2 heads of 16); medians. A step is one mini-batch. "
    "fla-*: TTT-Linear of fla-core, which takes rates per row only and ends before the output's norm; "
    "gated-delta: a linear recurrence, for scale; compiled: torch.compile of a mini-batch of the definition."
)


def _error_table(rows: list[dict[str, Any]]) -> str:
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
    return report.table(lines) if lines else "nothing ran"


def _time_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        {
            "who": row["who"],
            "inner": row["inner"],
            "batch": row["batch"],
            "tokens": f"{row['tokens']:,}",
            "forward us/step": f"{row['forward_us_per_step']:.2f}",
            "forward + backward us/step": f"{row['both_us_per_step']:.2f}",
            "against ours": f"{row['both_ms'] / _own(row, rows):.2f}x",
            "peak GiB": f"{row['peak_bytes'] / _GIB:.2f}",
            "first call s": f"{row['first_call_seconds']:.0f}",
        }
        for row in rows
    ]
    return report.table(lines) if lines else "nothing ran"


def _kernel_table(rows: list[dict[str, Any]]) -> str:
    """Every kernel of ours beside the others of its launch; the serial ones have predictions."""
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


def _own(row: dict[str, Any], rows: list[dict[str, Any]]) -> float:
    same = ("inner", "batch", "tokens")
    own = [r for r in rows if r["who"] == "ours" and all(r[k] == row[k] for k in same)]
    return own[0]["both_ms"] if own else float("nan")


def _step_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        {
            "model": row["preset"],
            "parameters": f"{row['parameters'] / 1e6:,.1f} M",
            "tokens": f"{row['tokens']:,}",
            "chunk": f"{row['chunk']:,}",
            "s/step": f"{row['step_seconds']:.2f}",
            "tokens/s": f"{row['tokens_per_second']:,.0f}",
            "peak GiB": f"{row['peak_bytes'] / _GIB:.1f}",
            "in serial kernels": _percent(row["serial_share"]),
            "waits of the host": "" if row["host_waits"] is None else str(row["host_waits"]),
        }
        for row in rows
    ]
    return report.table(lines) if lines else "nothing ran"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f}%"


if __name__ == "__main__":
    limit = float(sys.argv[2]) if len(sys.argv) > 2 else 540.0
    sys.exit(main(Path(sys.argv[1]), limit))
